"""What the pretended accelerator refuses, and what it allows.

    python -m tools.standins.accelerator.rules FILE

FILE tells it as JSON. Run by test_accelerator.py.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn.functional import conv2d, group_norm

from . import backend


def main(file: str) -> None:
    (device, other), memory = backend.register()
    here, there, elsewhere = torch.rand(2, 2), torch.rand(2, 2, device=device), torch.rand(2, 2, device=other)
    index = torch.tensor([1, 0])
    picture, kernel = torch.rand(1, 2, 4, 4), torch.rand(2, 2, 3, 3)

    def allocate(sizes: tuple[int, ...], capacity: int) -> None:
        memory.capacity = memory.used + capacity
        for size in sizes:
            torch.empty(size, dtype=torch.uint8, device=device)

    attempts = {
        "add": lambda: there + here,
        "add in place": lambda: here.add_(there),
        "multiply matrices": lambda: there @ here,
        "add another accelerator's": lambda: there + elsewhere,
        "concatenate": lambda: torch.cat((here, there)),
        "convolve": lambda: conv2d(picture.to(device), kernel),
        "normalize": lambda: group_norm(picture, 1, torch.ones(2, device=device)),
        "add a number of the accelerator": lambda: here + there.sum(),
        "index by the accelerator": lambda: here[index.to(device)],
        "draw from the CPU's generator": lambda: torch.rand(2, device=device, generator=torch.Generator()),
        "draw from the accelerator's generator": lambda: torch.rand(2, generator=torch.Generator(device)),
        "allocate past the capacity": lambda: allocate((101,), capacity=100),
        "add a number of the CPU": lambda: there + here.sum(),
        "index by the CPU": lambda: there[index],
        "copy": lambda: there.copy_(here),
        "copy from another accelerator": lambda: there.copy_(elsewhere),
        "allocate what was freed": lambda: allocate((60, 60), capacity=100),
    }
    became = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            became[name] = "ran"
        except RuntimeError as error:
            became[name] = f"{type(error).__name__}: {error}"
    Path(file).write_text(json.dumps(became))


if __name__ == "__main__":
    main(*sys.argv[1:])
