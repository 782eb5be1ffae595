"""Join the CONDITIONING of single frames to one CONDITIONING with a row for each frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch import Tensor
from torch.nn.functional import pad

from .comfy_types import Conditioning, Model


def batch_conditioning(frames: Sequence[Conditioning], model: Model | None) -> Conditioning:
    """Join the CONDITIONING of single frames along the batch.

    Text, pooled text, masks, and the latents and references of a frame become the rows of one tensor each. All other
    values must be the same in all frames.

    Args:
        frames: one CONDITIONING for each frame, with the same number of prompts.
        model: the MODEL that reads the result; only needed if the texts differ in length.

    Raises:
        ValueError: the frames differ in something that cannot have a row for each frame.
    """
    counts = sorted({len(frame) for frame in frames})
    if len(counts) > 1:
        raise ValueError(
            f"some frames have {counts[0]} prompts and others {counts[-1]}. Combine prompts (areas, masks, timestep "
            "ranges) after this node."
        )
    return [_join_prompts(prompts, model) for prompts in zip(*frames, strict=True)]


def _join_prompts(prompts: Sequence[tuple[Tensor, dict]], model: Model | None) -> tuple[Tensor, dict]:
    if len({text.shape[2] for text, _ in prompts}) > 1:
        raise ValueError("the prompts come from different text encoders. Encode all of them with the model's CLIP.")
    if len({text.shape[1] for text, _ in prompts}) > 1:
        prompts = _match_lengths(prompts, model)
    texts, extras = zip(*prompts, strict=True)
    keys = dict.fromkeys(key for extra in extras for key in extra)
    return torch.cat(texts), {key: _join_values(key, [extra.get(key) for extra in extras]) for key in keys}


def _match_lengths(prompts: Sequence[tuple[Tensor, dict]], model: Model | None) -> list[tuple[Tensor, dict]]:
    """Lengthen texts `[1, L, D]` to the same L without an effect on the prediction.

    Cross-attention gives the same result for a repeated text, which ComfyUI uses too (`comfy.conds.CONDCrossAttn`).
    Qwen-Image leaves out masked tokens.

    Raises:
        ValueError: the MODEL is unknown, or its network reads added tokens as text.
    """
    lengths = [text.shape[1] for text, _ in prompts]
    found = f"the prompts have {min(lengths)} to {max(lengths)} tokens"
    if model is None:
        raise ValueError(f"{found}. Wire model, which decides how they are joined.")
    network = model.model.diffusion_model
    if isinstance(network, UNetModel):
        length = math.lcm(*lengths)
        return [(text.repeat(1, length // text.shape[1], 1), extra) for text, extra in prompts]
    if type(network) is QwenImageTransformer2DModel:  # Nunchaku's subclass ignores the mask
        return [_pad_text(text, extra, max(lengths)) for text, extra in prompts]
    raise ValueError(
        f"{found}, and {type(model.model).__name__} would read the tokens that fill up the shorter ones. Use prompts "
        "of the same length, or generate frame by frame. Prompts of different length can be joined for SD 1.5, SD 2, "
        "SDXL and Qwen-Image only."
    )


def _pad_text(text: Tensor, extra: dict, length: int) -> tuple[Tensor, dict]:
    """A prompt with zeros up to `length` tokens, which its attention_mask leaves out."""
    missing = length - text.shape[1]
    mask = extra.get("attention_mask", torch.ones(text.shape[:2], dtype=torch.long, device=text.device))
    return pad(text, (0, 0, 0, missing)), {**extra, "attention_mask": pad(mask, (0, missing))}


def _join_values(key: str, values: list[Any]) -> Any:
    """Concatenate the rows of all frames, or return the value that they share."""
    first = values[0]
    if all(isinstance(value, Tensor) and value.ndim > 0 for value in values):
        shapes = {value.shape[1:] for value in values}
        if len(shapes) > 1:
            sizes = sorted("x".join(map(str, reversed(shape[-2:]))) for shape in shapes)  # width x height
            raise ValueError(
                f"the frames differ in the size of {key}: {' and '.join(sizes)}. Scale all frames to the same size."
            )
        return torch.cat(values)
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [_join_values(key, list(items)) for items in zip(*values, strict=True)]
    if all(value is first or value == first for value in values):
        return first
    raise ValueError(
        f"the frames differ in {key}, which cannot have a row for each frame. Wire the node that sets it after this "
        "node; ControlNet nodes take one hint for each frame there."
    )
