"""The cost of a result: how many frames its computation put through a UNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from research.demo_chain import DemoChain


@dataclass(frozen=True)
class PricedResult:
    """A result, and the number of frames that each step of its computation put through a UNet, by step number."""

    result: object
    costs: dict[int, int]

    @property
    def calls(self) -> int:
        """Total number of frames through a UNet; a step that several other steps use counts once."""
        return sum(self.costs.values())


class CountingChain(DemoChain):
    """The chain, with the cost of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.counted, self.numbers = 0, count()
        for model in (self.image, self.video):
            self.count(model)

    def count(self, model) -> None:
        """Add the frames that go through a MODEL's network to `counted` from now on."""

        def add(network: object, arguments: tuple) -> None:
            self.counted += len(arguments[0])

        model.model.diffusion_model.register_forward_pre_hook(add)

    def run_step(self, function: Callable, *inputs, **settings) -> PricedResult:
        """Call ``function``; its inputs may be results of other steps, whose costs the result includes."""
        priced = [value for value in inputs if isinstance(value, PricedResult)]
        before = self.counted
        result = function(*(value.result if isinstance(value, PricedResult) else value for value in inputs), **settings)
        costs = {number: frames for step in priced for number, frames in step.costs.items()}
        return PricedResult(result, costs | {next(self.numbers): self.counted - before})
