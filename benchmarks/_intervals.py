"""How sure a mean over clips is."""

import torch
from torch import Tensor

DRAWS = 2000


def interval(values: Tensor) -> tuple[float, float]:
    """Bounds of the mean in 95 of 100 resamplings of the clips."""
    picks = torch.randint(len(values), (DRAWS, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[picks].nanmean(dim=1).nanquantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high
