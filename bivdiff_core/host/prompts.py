"""CONDITIONING held against the MODEL that is to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .comfy_types import Conditioning, Latent, Model
from .model_families import ModelFamily


@dataclass(frozen=True)
class PromptPair:
    """What guides a run: CONDITIONING for and against, and how strictly; an inversion has one and no guidance."""

    positive: Conditioning
    negative: Conditioning
    cfg: float = 1.0

    @classmethod
    def without_guidance(cls, conditioning: Conditioning) -> PromptPair:
        """One CONDITIONING without guidance."""
        return cls(conditioning, conditioning)


def check_prompt(text: Tensor, extra: dict, family: ModelFamily, width: int | None) -> None:
    """Refuse a prompt that a MODEL of a family cannot read.

    Args:
        text, extra: one of a CONDITIONING.
        width: length of the vectors that the MODEL reads, None where any will do.

    Raises:
        ValueError: another encoder made the text, or it carries what does not reach the MODEL.
    """
    if width is not None and (text.shape[-1] != width or (family.text_key and family.text_key not in extra)):
        lacks = f" and {family.text_key}" if family.text_key else ""
        raise ValueError(
            f"this prompt was encoded for another model (vectors of {text.shape[-1]} values; this model reads "
            f"{width}{lacks}). Encode it with the CLIP that belongs to this model."
        )
    if not family.control and "control" in extra:
        raise ValueError(
            "this video model takes no ControlNet. Wire the prompt from CLIP Text Encode, before Apply ControlNet: the "
            "frames follow the control already."
        )
    if not family.prompt_per_frame and text.shape[0] > 1:
        raise ValueError(
            f"this video model reads one prompt per clip, got {text.shape[0]}. Give it one for all frames."
        )


def check_image_input(family: ModelFamily, prompts: PromptPair, latent: Latent) -> None:
    """Refuse an InstructPix2Pix or inpainting MODEL without the picture that it works on.

    Raises:
        ValueError: the host would show it a blank one.
    """
    given = any("concat_latent_image" in extra for _, extra in prompts.positive)
    if family.picture is None or given or (family.mask_will_do and "noise_mask" in latent):
        return
    raise ValueError(
        f"got an {family.name} model but no picture for it to work on. Wire both prompts through {family.picture}."
    )


def check_prompt_coverage(model: Model, prompts: PromptPair, sigmas: Tensor) -> None:
    """Refuse prompts that leave noise levels of a run without any, where the host would not run the MODEL at all.

    Args:
        sigmas: the run's levels, rising or falling.

    Raises:
        ValueError: naming the level and the control that closes the gap.
    """
    sampling = model.get_model_object("model_sampling")
    between = (sigmas[1:] + sigmas[:-1]) / 2  # where solvers and samplers of second order look
    levels = torch.cat([sigmas, between]).clamp(min=float(sampling.sigma_min)).tolist()
    sides = {"positive": prompts.positive, "negative": prompts.negative if prompts.cfg != 1 else prompts.positive}
    for side, conditioning in sides.items():
        ranges = [_active_sigma_range(extra, sampling.percent_to_sigma) for _, extra in conditioning]
        for sigma in levels:
            if not any(end <= sigma <= start * (1 + 1e-5) for start, end in ranges):
                raise ValueError(
                    f"no {side} prompt is active at sigma {sigma:.3g}, and the model would not run there. Close the "
                    "gap in ConditioningSetTimestepRange, or add a prompt for the rest of the range."
                )


def _active_sigma_range(extra: dict, percent_to_sigma: Callable[[float], float]) -> tuple[float, float]:
    """Highest and lowest level at which one of a CONDITIONING is in force, as the host counts its percents."""
    start = max(extra.get("start_percent", 0.0), extra.get("clip_start_percent", 0.0))
    end = min(extra.get("end_percent", 1.0), extra.get("clip_end_percent", 1.0))
    return float(percent_to_sigma(start)), float(percent_to_sigma(end))


def disable_distilled_guidance(prompts: PromptPair) -> PromptPair:
    """An inversion's prompts with distilled guidance of 1, unless one is wired.

    The host's own default is one for generating (Flux 3.5, HunyuanVideo 6).
    """
    return PromptPair.without_guidance([(text, {"guidance": 1.0, **extra}) for text, extra in prompts.positive])
