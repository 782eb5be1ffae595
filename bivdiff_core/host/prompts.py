"""Check that a MODEL can use its CONDITIONING."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .comfy_types import Conditioning, Latent, Model
from .model_families import ModelFamily


@dataclass(frozen=True)
class PromptPair:
    """Positive and negative CONDITIONING and the guidance scale (cfg) of a run. An inversion uses no guidance."""

    positive: Conditioning
    negative: Conditioning
    cfg: float = 1.0

    @classmethod
    def without_guidance(cls, conditioning: Conditioning) -> PromptPair:
        """The same CONDITIONING as positive and negative, with cfg 1."""
        return cls(conditioning, conditioning)

    def used_prompts(self) -> dict[str, Conditioning]:
        """The prompts that ComfyUI runs, by their names: with cfg 1 only the positive one."""
        return {"positive": self.positive} if self.cfg == 1 else {"positive": self.positive, "negative": self.negative}


def check_prompt(text: Tensor, extra: dict, family: ModelFamily, width: int | None) -> None:
    """Reject a prompt that a MODEL of this family cannot use.

    Args:
        text, extra: one entry of a CONDITIONING.
        width: length of the text vectors that the MODEL expects; None to skip the check.

    Raises:
        ValueError: another model's encoder made the text, or the MODEL does not support its ControlNet or its prompts
            per frame.
    """
    if width is not None and (text.shape[-1] != width or (family.text_key and family.text_key not in extra)):
        missing_key = f" and {family.text_key}" if family.text_key else ""
        raise ValueError(
            f"this prompt was encoded for another model: got vectors of {text.shape[-1]} values, expected "
            f"{width}{missing_key}. Encode it with the CLIP that belongs to this model."
        )
    if not family.supports_control and "control" in extra:
        raise ValueError(
            "this video model does not support ControlNets. Wire the prompt from CLIP Text Encode, before Apply "
            "ControlNet: the frames already follow the control."
        )
    if not family.supports_frame_prompts and text.shape[0] > 1:
        raise ValueError(
            f"this video model supports one prompt per clip, got {text.shape[0]}. Use one prompt for all frames."
        )


def check_image_input(family: ModelFamily, prompts: PromptPair, latent: Latent) -> None:
    """Reject a MODEL that works on an image (InstructPix2Pix, inpainting, image to video) without one.

    Raises:
        ValueError: the image is missing; ComfyUI would use a blank one.
    """
    has_image = any("concat_latent_image" in extra for _, extra in prompts.positive)
    if family.image_source is None or has_image or (family.accepts_noise_mask and "noise_mask" in latent):
        return
    raise ValueError(
        f"this {family.name} model works on an image, but got none. Wire both prompts through {family.image_source}."
    )


def check_prompt_coverage(model: Model, prompts: dict[str, Conditioning], sigmas: Tensor) -> None:
    """Reject prompts that are inactive at a noise level of a run; ComfyUI would skip the MODEL there.

    Args:
        prompts: CONDITIONING by its name.
        sigmas: the run's noise levels, ascending or descending.

    Raises:
        ValueError: no prompt is active at a level; names the level and the node that closes the gap.
    """
    sampling = model.get_model_object("model_sampling")
    between = (sigmas[1:] + sigmas[:-1]) / 2  # second-order solvers and samplers call the model there
    levels = torch.cat([sigmas, between]).clamp(min=float(sampling.sigma_min)).tolist()
    for name, conditioning in prompts.items():
        ranges = [_active_sigma_range(extra, sampling.percent_to_sigma) for _, extra in conditioning]
        for sigma in levels:
            if not any(end <= sigma <= start * (1 + 1e-5) for start, end in ranges):
                raise ValueError(
                    f"no {name} prompt is active at sigma {sigma:.3g}, so the model would not run there. Close the "
                    "gap in ConditioningSetTimestepRange, or add a prompt for the rest of the range."
                )


def _active_sigma_range(extra: dict, percent_to_sigma: Callable[[float], float]) -> tuple[float, float]:
    """Highest and lowest sigma at which an entry of a CONDITIONING is active, from ComfyUI's percents."""
    start = max(extra.get("start_percent", 0.0), extra.get("clip_start_percent", 0.0))
    end = min(extra.get("end_percent", 1.0), extra.get("clip_end_percent", 1.0))
    return float(percent_to_sigma(start)), float(percent_to_sigma(end))


def disable_distilled_guidance(prompts: PromptPair) -> PromptPair:
    """Prompts for an inversion with distilled guidance 1, unless the CONDITIONING sets another value.

    ComfyUI's default is for generating (Flux 3.5, HunyuanVideo 6).
    """
    return PromptPair.without_guidance([(text, {"guidance": 1.0, **extra}) for text, extra in prompts.positive])
