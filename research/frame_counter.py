"""A chain whose steps run once for a clip, and their cost: how many frames each put through a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import count


@dataclass(frozen=True)
class PricedResult:
    """A result, and the number of frames that each step of its computation put through a network, by step number."""

    result: object
    costs: dict[int, int]

    @property
    def calls(self) -> int:
        """Total number of frames through a network; a step that several other steps use counts once."""
        return sum(self.costs.values())


class FrameCounter:
    """Base of a chain that knows the cost of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.counted, self.numbers = 0, count()
        self.done: dict[tuple, object] = {}

    def count(self, model) -> None:
        """Add the frames, or the latents of a clip, that go through a MODEL's network to `counted` from now on."""

        def add(network: object, arguments: tuple) -> None:
            batch, _, *size = arguments[0].shape
            self.counted += batch * (size[0] if len(size) == 3 else 1)

        model.model.diffusion_model.register_forward_pre_hook(add)

    def run_step(self, function: Callable, *inputs, **settings) -> PricedResult:
        """Call ``function``; its inputs may be results of other steps, whose costs the result includes."""
        priced = [value for value in inputs if isinstance(value, PricedResult)]
        before = self.counted
        result = function(*(value.result if isinstance(value, PricedResult) else value for value in inputs), **settings)
        costs = {number: frames for step in priced for number, frames in step.costs.items()}
        return PricedResult(result, costs | {next(self.numbers): self.counted - before})


def once(step: Callable) -> Callable:
    """Run a step of a `FrameCounter` once for each clip and arguments; a new clip begins with an empty `done`."""

    @wraps(step)
    def run(chain: FrameCounter, *arguments: object) -> object:
        key = step.__name__, arguments
        if key not in chain.done:
            chain.done[key] = step(chain, *arguments)
        return chain.done[key]

    return run
