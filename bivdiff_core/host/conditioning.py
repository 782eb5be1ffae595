"""CONDITIONING held against the MODEL before it runs, and made ready for inversion."""

import comfy.model_base

from .video_unet import VideoModel
from .vidrd import VidRDModel

TEXT = {
    VideoModel: (lambda network: network.unet.config.cross_attention_dim, None),
    VidRDModel: (lambda network: network.context_dim, None),
    comfy.model_base.WAN21: (lambda network: network.text_dim, None),
    comfy.model_base.LTXV: (lambda network: network.caption_channels, "attention_mask"),
    comfy.model_base.HunyuanVideo: (lambda network: network.params.context_in_dim, "pooled_output"),
}
"""What a video MODEL's own text encoder gives: vectors of this length, and beside them what the model cannot do
without. Length alone does not tell Wan, LTX and HunyuanVideo apart: theirs is 4096."""


def check_conditioning(model, conditioning: list, node: str) -> None:
    """Refuse text of another model's encoder, and what a UNet3DConditionModel has no place for.

    Image MODELs take what they are given.

    Args:
        conditioning: the host's CONDITIONING.

    Raises:
        ValueError: the text is not this video MODEL's; for a UNet3DConditionModel also where a ControlNet is wired,
            or the prompt changes from frame to frame.
    """
    kind = next((kind for kind in TEXT if isinstance(model.model, kind)), None)
    if kind is None:
        return
    length_of, needed = TEXT[kind]
    length = length_of(model.model.diffusion_model)
    for text, extra in conditioning:
        if text.shape[-1] != length or (needed and needed not in extra):
            lacks = f" and {needed}" if needed else ""
            raise ValueError(
                f"{node}: another model's text encoder made this prompt (vectors of {text.shape[-1]} values; this "
                f"model reads {length}{lacks}). Encode it with the CLIP that belongs to this model."
            )
        if kind is VideoModel and "control" in extra:
            raise ValueError(
                f"{node}: this video model takes no ControlNet. Wire the prompt from CLIP Text Encode, before Apply "
                "ControlNet: the frames follow the control already."
            )
        if kind is VideoModel and text.shape[0] > 1:
            raise ValueError(
                f"{node}: this video model reads one prompt a clip, not {text.shape[0]}. Give it one for all frames."
            )


def unguided(model, conditioning: list) -> list:
    """CONDITIONING for inversion: distilled guidance of 1 where none is wired.

    The host's own default is one for generating (Flux 3.5, HunyuanVideo 6).
    """
    params = getattr(model.model.diffusion_model, "params", None)
    if not getattr(params, "guidance_embed", False):
        return conditioning
    return [(text, {"guidance": 1.0, **extra}) for text, extra in conditioning]
