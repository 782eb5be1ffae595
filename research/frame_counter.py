"""What a result costs: how many frames went through a UNet for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from research.demo_chain import DemoChain
from tools.in_process_comfyui import Pack


@dataclass(frozen=True)
class PricedResult:
    """A result, and the frames that each step on the way to it put through a UNet, by the step's number."""

    result: object
    paid: dict[int, int]

    @property
    def calls(self) -> int:
        """Frames through a UNet in all; a step that several others built on counts once."""
        return sum(self.paid.values())


class CountingChain(DemoChain):
    """The chain, whose steps know what they cost."""

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack)
        self.counted, self.numbers = 0, count()
        for model in (self.image, self.video):
            self.count(model)

    def count(self, model) -> None:
        """Add the frames that go through a MODEL's network to `counted`."""

        def add(network: object, arguments: tuple) -> None:
            self.counted += len(arguments[0])

        model.model.diffusion_model.register_forward_pre_hook(add)

    def step(self, make: Callable, *given: PricedResult) -> PricedResult:
        """What `make` returns for the results given, with its own price and theirs."""
        began = self.counted
        result = make(*(made.result for made in given))
        paid = {number: frames for made in given for number, frames in made.paid.items()}
        return PricedResult(result, paid | {next(self.numbers): self.counted - began})
