"""Training: resumable stages with checkpoints, a moving average of the weights, and files of intermediate results."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torchvision.utils import save_image
from tqdm import tqdm

log = logging.getLogger(__name__)

SAVE_EVERY = 60.0
"""Seconds between checkpoints."""

EMPTY_CAPTION_PROBABILITY = 0.1

Loss = Callable[[Generator], Tensor]
"""Samples a batch with the generator and returns its loss."""


def load_or_compute(path: Path, compute: Callable[[], dict]) -> dict:
    """The contents of a file, which is computed and saved first if it is missing."""
    if not path.exists():
        with torch.no_grad():
            save(compute(), path)
    return torch.load(path, weights_only=True)


def save(contents: dict, path: Path) -> None:
    """Write a file atomically: an interruption leaves the old file intact."""
    torch.save(contents, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def save_picture(path: Path, rows: list[Tensor]) -> None:
    """Write rows of images ``[N, 3, H, W]`` in -1..1 as one PNG."""
    save_image(torch.cat(rows), path, nrow=len(rows[0]), normalize=True, value_range=(-1, 1))
    log.info("picture: %s", path)


def stage_seed(stage: str) -> int:
    """The seed base of a stage; it does not depend on other stages."""
    return zlib.crc32(stage.encode()) << 20


def drop_captions(captions: Tensor, empty: Tensor, generator: Generator) -> Tensor:
    """Token ids or text vectors ``[B, ...]``, with a random tenth of the rows replaced by the empty caption's."""
    dropped = torch.rand(len(captions), generator=generator) < EMPTY_CAPTION_PROBABILITY
    return torch.where(dropped.view(-1, *[1] * (captions.ndim - 1)), empty, captions)


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save a state dict as fp16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().half().contiguous() for key, tensor in weights.items()}, path, metadata)


def picture_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """L1 + L2 + L1 of the differences between adjacent pixels, which keeps edges sharp."""
    edges = sum((predicted.diff(dim=dim) - true.diff(dim=dim)).abs().mean() for dim in (-1, -2))
    return (predicted - true).abs().mean() + (predicted - true).square().mean() + edges


def fit(
    path: Path, steps: int, network: nn.Module, loss: Loss, lr: float, average: float, slow: Collection[str] = ()
) -> None:
    """Train a network in place for a number of steps and leave the moving average of its weights in it.

    Every step has its own seed, so a resumed run uses the same batches.

    Args:
        path: the checkpoint; its stem names the stage.
        lr: peak learning rate; cosine schedule after a short warm-up.
        average: decay of the moving average; smaller in the first steps.
        slow: names of parameters with a quarter of the learning rate.
    """
    stage = path.stem
    trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    averages = {name: tensor.detach().clone() for name, tensor in trained.items()}
    groups = [{"params": [tensor for name, tensor in trained.items() if name not in slow], "lr": lr}]
    if slow:
        groups.append({"params": [tensor for name, tensor in trained.items() if name in slow], "lr": lr / 4})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
    warm_up = max(1, steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    done = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        done, averages = state["step"], state["smooth"]
        network.load_state_dict(state["network"])
        if done < steps:
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])

    network.train()
    running, saved, began = None, time.monotonic(), time.monotonic()
    bar = tqdm(range(done, steps), initial=done, total=steps, desc=stage, mininterval=20)
    for step in bar:
        value = loss(Generator().manual_seed(stage_seed(stage) + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(average, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(averages.values()), [tensor.detach() for tensor in trained.values()], 1 - decay)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if step + 1 == steps or time.monotonic() - saved > SAVE_EVERY:
            state = {"step": step + 1, "network": network.state_dict(), "smooth": averages}
            if step + 1 < steps:
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save(state, path)
            saved = time.monotonic()
    if done < steps:
        log.info("%s: %d steps in %.1f minutes", stage, steps - done, (time.monotonic() - began) / 60)
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(averages[name])
    network.eval()
