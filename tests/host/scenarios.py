"""What goes with frames, one thing at a time: controls, masks, text and latents of their own; patches beside them."""

from collections.abc import Callable

import torch
from torch import Tensor

from tools.standins import tiny_models as tiny
from tools.standins.controlnet import SelfSlicing, TimestepKeyframe, TimestepKeyframes, keyframed

F = 5  # frames
LATENT = (F, 4, 8, 8)
KSAMPLER = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": "euler_ancestral", "scheduler": "normal", "denoise": 1.0}
RANGE = (0.0, 0.4)
"""Start and end percent of the control under test: on while noise is high, where it moves most, off below."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def per_frame(tensor: Tensor, flip: bool) -> Tensor:
    return tensor.flip(0) if flip else tensor


def pair() -> tuple[list, list]:
    return tiny.text(seed=1), tiny.text(seed=2)


def empty() -> dict:
    return {"samples": torch.zeros(LATENT)}


def controlled(pack, conds: tuple, control, seed: int, flip: bool, start: float, end: float, strength: float = 1.0):
    """Positive and negative with a control hint for every frame; `flip` gives each frame another one's."""
    image = random(F, 64, 64, 3, seed=seed)
    return pack.run(
        "ControlNetApplyAdvanced", positive=conds[0], negative=conds[1], control_net=control,
        image=image.flip(0) if flip else image, strength=strength, start_percent=start, end_percent=end,
    )  # fmt: skip


# Each scenario: model, positive, negative, latent. `flip` hands the frames' own inputs out in reverse order.


def plain(pack, flip):
    samples = 10 * torch.randn(LATENT, generator=torch.Generator().manual_seed(8))
    return tiny.sd_model(), *pair(), {"samples": per_frame(samples, flip)}


def control_net(pack, flip):
    return tiny.sd_model(), *controlled(pack, pair(), tiny.control_net(), 1, flip, 0.1, 0.7), empty()


def chain_of_two(pack, flip):
    """Each with a range of its own; in every chunk both must know theirs."""
    conds = controlled(pack, pair(), tiny.control_net(1), 1, flip, *RANGE)
    return tiny.sd_model(), *controlled(pack, conds, tiny.control_net(2), 2, False, 0.3, 1.0, 0.5), empty()


def adapter_before_control_net(pack, flip):
    """An adapter whose copy is made after the run began loses its range, and acts on every step."""
    conds = controlled(pack, pair(), tiny.t2i_adapter(), 1, flip, *RANGE)
    return tiny.sd_model(), *controlled(pack, conds, tiny.control_net(), 2, False, 0.3, 1.0), empty()


def adapter_alone(pack, flip):
    return tiny.sd_model(), *controlled(pack, pair(), tiny.t2i_adapter(), 1, flip, *RANGE), empty()


def control_net_with_masks(pack, flip):
    """One for inpainting: a mask for every frame lies beside its hint."""
    image, mask = random(F, 64, 64, 3, seed=1), random(F, 64, 64, seed=2).round()
    positive, negative = pair()
    conds = pack.run(
        "ControlNetInpaintingAliMamaApply", positive=positive, negative=negative,
        control_net=tiny.control_net(concat_mask=True), vae=None, image=per_frame(image, flip),
        mask=per_frame(mask, flip), strength=1.0, start_percent=RANGE[0], end_percent=RANGE[1],
    )  # fmt: skip
    return tiny.sd_model(), *conds, empty()


def self_slicing_before_control_net(pack, flip):
    """One that slices for itself and one of the host's in the same chain."""
    control = tiny.control_net(1)
    control.__class__ = SelfSlicing
    conds = controlled(pack, pair(), control, 1, flip, *RANGE)
    return tiny.sd_model(), *controlled(pack, conds, tiny.control_net(2), 2, False, 0.3, 1.0, 0.5), empty()


def inherited_mask(pack, flip):
    """A mask of one timestep keyframe that the next one inherits."""
    mask = per_frame(torch.linspace(0.1, 1.9, F), flip)
    keyframes = TimestepKeyframes(TimestepKeyframe(0.0, 1.0, mask), TimestepKeyframe(0.2, 2.0))
    return tiny.sd_model(), *controlled(pack, pair(), keyframed(keyframes), 1, flip, 0.0, 1.0), empty()


def noise_mask(pack, flip):
    _, positive, negative, latent = plain(pack, False)
    (latent,) = pack.run("SetLatentNoiseMask", samples=latent, mask=per_frame(random(F, 64, 64, seed=1).round(), flip))
    return tiny.sd_model(), positive, negative, latent


def conditioning_masks(pack, flip):
    """Two prompts, each in its own region of every frame."""
    positive, negative = pair()
    mask = per_frame(random(F, 64, 64, seed=1), flip)
    parts = [
        pack.run("ConditioningSetMask", conditioning=c, mask=m, set_cond_area="default", strength=1.0)[0]
        for c, m in ((positive, mask), (tiny.text(seed=3), 1 - mask))
    ]
    return tiny.sd_model(), parts[0] + parts[1], negative, empty()


def text_per_frame(pack, flip):
    """Positive with a text for every frame, negative with one for all."""
    text = tiny.text(F, 7, tiny.TEXT_WIDTH, seed=1)
    return tiny.sd_model(), [[per_frame(text[0][0], flip), {}]], tiny.text(seed=2), empty()


def pooled_text_per_frame(pack, flip):
    xl = tiny.sd_model(tiny.TinySDXL, num_classes="sequential", adm_in_channels=2816)
    positive = tiny.text(seed=1, pooled_output=per_frame(random(F, 1280, seed=1), flip))
    return xl, positive, tiny.text(seed=2, pooled_output=random(1, 1280, seed=2)), empty()


def concat_latents(pack, flip):
    """An inpainting model: mask and masked image as further input channels."""
    extra = {
        "concat_latent_image": per_frame(10 * random(*LATENT, seed=1), flip),
        "concat_mask": per_frame(random(F, 1, 64, 64, seed=2).round(), flip),
    }
    return tiny.sd_model(in_channels=9), tiny.text(seed=1, **extra), tiny.text(seed=2, **extra), empty()


def prompts_in_areas(pack, flip):
    """A second prompt for the left half; the area stays where it is, its text follows the frames."""
    left = tiny.text(F, 7, tiny.TEXT_WIDTH, seed=3)
    left[0][0] = per_frame(left[0][0], flip)
    (left,) = pack.run("ConditioningSetArea", conditioning=left, width=32, height=64, x=0, y=0, strength=1.0)
    return tiny.sd_model(), pair()[0] + left, pair()[1], empty()


def reference_latents(pack, flip):
    """Flux Kontext: a reference image for every frame, and one for all."""
    shape = (F, 16, 8, 8)
    own, common = (torch.randn(n, *shape[1:], generator=torch.Generator().manual_seed(n)) for n in (F, 1))
    positive, negative = (
        tiny.text(seed=s, pooled_output=random(1, tiny.TEXT_WIDTH, seed=s), guidance=1.0) for s in (1, 2)
    )
    for latent in (per_frame(own, flip), common):
        (positive,) = pack.run("ReferenceLatent", conditioning=positive, latent={"samples": latent})
    return tiny.flux_model(), positive, negative, {"samples": torch.zeros(shape)}


SCENARIOS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        plain, control_net, chain_of_two, adapter_before_control_net, adapter_alone, control_net_with_masks,
        self_slicing_before_control_net, inherited_mask, noise_mask, conditioning_masks, text_per_frame,
        pooled_text_per_frame, concat_latents, prompts_in_areas, reference_latents,
    )
}  # fmt: skip


# What is put on a MODEL


def with_image_prompts(model, flip: bool = False):
    """A MODEL with an image prompt for each frame, patched in as IP-Adapter Plus does: it takes the rows of the window
    that it is told of, and the first ones where it is told of none."""
    images = per_frame(random(F, 1, 1, seed=3), flip)

    def patch(features: Tensor, options: dict) -> Tensor:
        conds = len(options["cond_or_uncond"])
        window = options.get("ad_params", {}).get("sub_idxs") or range(len(features) // conds)
        return features + images[list(window)].repeat(conds, 1, 1)

    model = model.clone()
    model.set_model_attn2_output_patch(patch)
    return model


NEUTRAL = {
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "RescaleCFG": {"multiplier": 0.7},
    "TCFG": {},
    "Mahiro": {},
    "UNetSelfAttentionMultiply": {"q": 1.1, "k": 0.9, "v": 1.2, "out": 1.0},
    "UNetCrossAttentionMultiply": {"q": 1.1, "k": 0.9, "v": 1.2, "out": 1.0},
    "PatchModelAddDownscale": {
        "block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.5,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
    },
    "LazyCache": {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False},
}  # fmt: skip
"""Core's patches that make of frames in chunks what they make of all at once, and settings that are felt."""


def patched(pack, model, patch: str | None, settings: dict, frames_per_batch: int) -> Tensor:
    """Frames of a MODEL behind one of core's nodes."""
    if patch is not None:
        (model,) = pack.run(patch, model=model, **settings)
    positive, negative = pair()
    given = {"model": model, "positive": positive, "negative": negative, "latent_image": empty(), **KSAMPLER}
    given |= {"steps": 6, "sampler_name": "euler"}
    return pack.run("BIVDiffFrameSampler", frames_per_batch=frames_per_batch, **given)[0]["samples"]


CORE_WINDOWS = {
    "context_length": 3, "context_overlap": 1, "context_stride": 1, "closed_loop": False, "dim": 0, "freenoise": False,
    "context_schedule": "standard_static", "fuse_method": "overlap-linear", **tiny.NO_ANCHOR,
}  # fmt: skip
