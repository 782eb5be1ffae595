"""Frames in chunks give what the whole batch gives, whatever goes with the frames; and nothing is left half-done.

The oracle is the host's own sampling of all frames at once, without any windows.
"""

import logging
from collections.abc import Callable

import comfy.context_windows
import comfy.controlnet
import comfy.model_management
import comfy.samplers
import pytest
import tiny_models as tiny
import torch
from analytic import rms
from torch import Tensor

from bivdiff_core.host.memory import frames_that_fit

F = 5
LATENT = (F, 4, 8, 8)
CHUNKS = (1, 2, 3, 5)
KSAMPLER = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": "euler_ancestral", "scheduler": "normal", "denoise": 1.0}


RANGE = (0.0, 0.4)
"""Start and end percent of the control under test: on while noise is high, where it moves most, off below."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def controlled(pack, conds: tuple, control, seed: int, flip: bool, start: float, end: float, strength: float = 1.0):
    """Positive and negative with a control hint for every frame; `flip` gives each frame another one's."""
    image = random(F, 64, 64, 3, seed=seed)
    return pack.run(
        "ControlNetApplyAdvanced", positive=conds[0], negative=conds[1], control_net=control,
        image=image.flip(0) if flip else image, strength=strength, start_percent=start, end_percent=end,
    )  # fmt: skip


def per_frame(tensor: Tensor, flip: bool) -> Tensor:
    return tensor.flip(0) if flip else tensor


# Each scenario: model, positive, negative, latent. `flip` hands the frames' own inputs out in reverse order.


def plain(pack, flip):
    samples = 10 * torch.randn(LATENT, generator=torch.Generator().manual_seed(8))
    return tiny.sd_model(), *pair(), {"samples": per_frame(samples, flip)}


def pair() -> tuple[list, list]:
    return tiny.text(seed=1), tiny.text(seed=2)


def empty() -> dict:
    return {"samples": torch.zeros(LATENT)}


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


class SelfSlicing(comfy.controlnet.ControlNet):
    """A control as Advanced-ControlNet makes them: told a window's frames, it takes their part of the hints, of which
    the last holds for all frames beyond it, and of the strengths, one for each frame."""

    sub_idxs, full_latent_length, context_length = None, 0, 0

    def copy(self):
        copied = super().copy()
        copied.__class__ = SelfSlicing
        return copied

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        hints, self.cond_hint = self.cond_hint_original, None
        self.batched_number = batched_number
        try:
            if self.sub_idxs is not None:
                missing = self.full_latent_length - len(hints)
                self.cond_hint_original = torch.cat([hints, hints[-1:].expand(missing, -1, -1, -1)])[self.sub_idxs]
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = hints

    def control_merge(self, control, control_prev, output_dtype):
        strengths = torch.linspace(0.2, 1.8, F)[self.sub_idxs or slice(F)].repeat(self.batched_number)
        scaled = {key: [x * strengths.view(-1, 1, 1, 1) for x in outs] for key, outs in control.items()}
        return super().control_merge(scaled, control_prev, output_dtype)


class TimestepKeyframe:
    """From where on a control has which strength, and perhaps a mask for each frame; later ones inherit it."""

    def __init__(self, start_percent: float, strength: float, mask: Tensor | None = None):
        self.start_percent, self.strength, self.mask_hint_orig = start_percent, strength, mask
        self.guarantee_steps = 1


class TimestepKeyframes:
    """The keyframes of a control in the order of their starts."""

    def __init__(self, *keyframes: TimestepKeyframe):
        self.keyframes = list(keyframes)


class Keyframed(SelfSlicing):
    """A control of Advanced-ControlNet with timestep keyframes, which move on to later ones only."""

    calls: list[tuple[float, float]] = []
    """Sigma and strength of every call of any of them."""

    def copy(self):
        copied = super().copy()
        copied.__class__ = Keyframed
        copied.begin(self.timestep_keyframes)
        return copied

    def begin(self, keyframes: TimestepKeyframes) -> "Keyframed":
        self.__class__ = Keyframed
        self.timestep_keyframes = keyframes
        self.current_timestep_keyframe, self.current_timestep_index, self.current_used_steps = None, -1, 0
        self.tk_mask_cond_hint = None
        return self

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.begin(self.timestep_keyframes)
        for keyframe in self.timestep_keyframes.keyframes:
            keyframe.start_t = percent_to_timestep_function(keyframe.start_percent)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        current = self.current_timestep_keyframe
        if current is None or self.current_used_steps >= current.guarantee_steps:
            for i, keyframe in enumerate(self.timestep_keyframes.keyframes):
                if i > self.current_timestep_index and keyframe.start_t >= t[0]:
                    self.current_timestep_keyframe, self.current_timestep_index = keyframe, i
                    self.current_used_steps = 0
                    if keyframe.guarantee_steps > 0:
                        break
        self.current_used_steps += 1
        self.calls.append((t[0].item(), self.current_timestep_keyframe.strength))
        mask = self.current_timestep_keyframe.mask_hint_orig
        if mask is not None:
            self.tk_mask_cond_hint = mask[self.sub_idxs or slice(None)]
        return super().get_control(x_noisy, t, cond, batched_number, transformer_options)

    def control_merge(self, control, control_prev, output_dtype):
        factors = torch.full((1,), self.current_timestep_keyframe.strength)
        if self.tk_mask_cond_hint is not None:
            factors = factors * self.tk_mask_cond_hint.repeat(self.batched_number)
        scaled = {key: [x * factors.view(-1, 1, 1, 1) for x in outs] for key, outs in control.items()}
        return super().control_merge(scaled, control_prev, output_dtype)


def keyframed(keyframes: TimestepKeyframes) -> Keyframed:
    """A CONTROL_NET with timestep keyframes."""
    return Keyframed.begin(tiny.control_net(1), keyframes)


def inherited_mask(pack, flip):
    """A mask of one timestep keyframe that the next one inherits."""
    mask = per_frame(torch.linspace(0.1, 1.9, F), flip)
    keyframes = TimestepKeyframes(TimestepKeyframe(0.0, 1.0, mask), TimestepKeyframe(0.2, 2.0))
    return tiny.sd_model(), *controlled(pack, pair(), keyframed(keyframes), 1, flip, 0.0, 1.0), empty()


def self_slicing_before_control_net(pack, flip):
    """One that slices for itself and one of the host's in the same chain."""
    control = tiny.control_net(1)
    control.__class__ = SelfSlicing
    conds = controlled(pack, pair(), control, 1, flip, *RANGE)
    return tiny.sd_model(), *controlled(pack, conds, tiny.control_net(2), 2, False, 0.3, 1.0, 0.5), empty()


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
CONDITIONED = [name for name in SCENARIOS if name not in ("plain", "noise_mask")]


def same(a: Tensor, b: Tensor) -> None:
    """Equal to float noise: chunks differ from the whole by the order of sums in batched kernels."""
    assert rms(a - b) < 2e-5 * rms(b)


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request, pack):
    """A scenario and what the host makes of it in one piece."""
    model, positive, negative, latent = SCENARIOS[request.param](pack, flip=False)
    given = {"positive": positive, "negative": negative, "latent_image": latent}
    (whole,) = pack.run("KSampler", model=model, **given, **KSAMPLER)
    return request.param, model, given, whole["samples"]


def test_what_goes_with_a_frame_matters(pack, scenario):
    """Handed to other frames, it changes the picture: so the tests below can see a wrong slice."""
    name, _, _, whole = scenario
    model, positive, negative, latent = SCENARIOS[name](pack, flip=True)
    (flipped,) = pack.run(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **KSAMPLER
    )
    changed = [rms(a - b) > 5e-3 * rms(b) for a, b in zip(flipped["samples"], whole, strict=True)]
    assert sum(changed) >= F - 1  # the middle frame keeps its own


@pytest.mark.parametrize("control", [tiny.control_net, tiny.t2i_adapter])
def test_a_controls_range_matters(pack, control):
    """On beyond its end percent, it changes the picture: so the tests below can see a lost range."""
    ends = []
    for end in (RANGE[1], 1.0):
        positive, negative = controlled(pack, pair(), control(), 1, False, RANGE[0], end)
        given = {"positive": positive, "negative": negative, "latent_image": empty()}
        ends.append(pack.run("KSampler", model=tiny.sd_model(), **given, **KSAMPLER)[0]["samples"])
    assert rms(ends[0] - ends[1]) > 1e-3 * rms(ends[0])


@pytest.mark.parametrize("frames_per_batch", CHUNKS)
def test_core_ksampler_on_a_frame_chunks_model(pack, scenario, frames_per_batch):
    _, model, given, whole = scenario
    calls = tiny.Calls()
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=frames_per_batch)
    (out,) = pack.run("KSampler", model=chunked, **given, **KSAMPLER)
    same(out["samples"], whole)
    assert max(calls.rows) <= 2 * frames_per_batch * (2 if len(given["positive"]) > 1 else 1)


@pytest.mark.parametrize("frames_per_batch", [0, *CHUNKS])
def test_frame_sampler(pack, scenario, frames_per_batch):
    """Also the noise, fresh noise of the ancestral sampler included, does not depend on the chunks."""
    _, model, given, whole = scenario
    (out,) = pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=frames_per_batch, **given, **KSAMPLER)
    same(out["samples"], whole)


@pytest.mark.parametrize("name", CONDITIONED)
def test_image_inversion(pack, name):
    model, positive, _, latent = SCENARIOS[name](pack, flip=False)
    clean = tiny.frames(*latent["samples"].shape)
    given = {"latent": clean, "steps": 4, "scheduler": "normal"}  # the last slope is read at t = 666, inside of RANGE
    _, flipped, _, _ = SCENARIOS[name](pack, flip=True)

    def invert(conditioning: list, frames_per_batch: int) -> Tensor:
        (out,) = pack.run(
            "BIVDiffInvertImage", model=model, conditioning=conditioning, frames_per_batch=frames_per_batch,
            **given,
        )  # fmt: skip
        return out["samples"]

    whole = invert(positive, F)
    assert rms(invert(flipped, F) - whole) > 1e-3 * rms(whole)
    for frames_per_batch in CHUNKS[:-1]:
        same(invert(positive, frames_per_batch), whole)


def test_frames_of_a_3d_image_model(pack):
    """An empty batch of images on a model of 3-D latents becomes one-frame clips, each made on its own."""
    model, given = tiny.wan_model(), {"positive": pair()[0], "negative": pair()[1], "latent_image": empty()}
    given |= {**KSAMPLER, "sampler_name": "euler", "scheduler": "simple"}
    whole, chunked = (
        pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=n, **given)[0]["samples"] for n in (F, 2)
    )
    assert whole.shape == (F, 16, 1, 8, 8)
    same(chunked, whole)
    (core,) = pack.run("KSampler", model=model, **given)
    same(whole, core["samples"])


@pytest.mark.parametrize("frames_per_batch", CHUNKS)
def test_instruct_pix2pix_through_dual_cfg(pack, frames_per_batch):
    """Three conds a step, the source frames as further input channels."""
    image = {"concat_latent_image": 10 * random(*LATENT, seed=1)}
    model = tiny.sd_model(in_channels=8)

    def sample(model) -> Tensor:
        (guider,) = pack.run(
            "DualCFGGuider", model=model, cond1=tiny.text(seed=1, **image), cond2=tiny.text(seed=2, **image),
            negative=tiny.text(seed=2), cfg_conds=5.0, cfg_cond2_negative=1.5, style="regular",
        )  # fmt: skip
        (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
        (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")
        (sigmas,) = pack.run("BasicScheduler", model=model, scheduler="normal", steps=4, denoise=1.0)
        out, _ = pack.run(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=empty()
        )
        return out["samples"]

    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=frames_per_batch)
    same(sample(chunked), sample(model))


# Other packs that slice for themselves


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


@pytest.mark.parametrize("frames_per_batch", [1, 2])
def test_image_prompts_follow_their_frames(pack, frames_per_batch):
    given = dict(zip(("model", "positive", "negative", "latent_image"), plain(pack, False), strict=True))
    model = given.pop("model")
    whole, flipped = (
        pack.run("KSampler", model=with_image_prompts(model, flip), **given, **KSAMPLER)[0]["samples"]
        for flip in (False, True)
    )
    assert rms(flipped - whole) > 5e-3 * rms(whole)
    (chunked,) = pack.run("BIVDiffFrameChunks", model=with_image_prompts(model), frames_per_batch=frames_per_batch)
    same(pack.run("KSampler", model=chunked, **given, **KSAMPLER)[0]["samples"], whole)


def test_hints_for_some_frames_only(pack):
    """A control that slices for itself may have fewer hints than frames, and decides what that means."""
    control = tiny.control_net(1)
    control.__class__ = SelfSlicing
    hints = random(F, 64, 64, 3, seed=1)
    hints[2:] = hints[1]
    chunked = []
    for n, given in ((F, hints), (2, hints[:2])):
        positive, negative = pack.run(
            "ControlNetApplyAdvanced", positive=pair()[0], negative=pair()[1], control_net=control, image=given,
            strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        (out,) = pack.run(
            "BIVDiffFrameSampler", model=tiny.sd_model(), positive=positive, negative=negative,
            latent_image=empty(), frames_per_batch=n, **KSAMPLER,
        )  # fmt: skip
        chunked.append(out["samples"])
    same(*chunked)


# Patches of other nodes

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
CACHE = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}


def patched(pack, model, patch: str | None, settings: dict, frames_per_batch: int) -> Tensor:
    """Frames of a MODEL behind one of core's nodes."""
    if patch is not None:
        (model,) = pack.run(patch, model=model, **settings)
    positive, negative = pair()
    given = {"model": model, "positive": positive, "negative": negative, "latent_image": empty(), **KSAMPLER}
    given |= {"steps": 6, "sampler_name": "euler"}
    return pack.run("BIVDiffFrameSampler", frames_per_batch=frames_per_batch, **given)[0]["samples"]


@pytest.mark.parametrize("patch", NEUTRAL)
def test_patches_of_core_do_not_see_the_chunks(pack, patch):
    model = tiny.sd_model()
    whole, *chunked = (patched(pack, model, patch, NEUTRAL[patch], n) for n in (F, 3, 1))
    assert rms(whole - patched(pack, model, None, {}, F)) > 1e-3 * rms(whole)
    for out in chunked:
        same(out, whole)


def test_a_step_cache_is_left_out_of_chunks_with_a_word(pack, caplog):
    """It would take one chunk's change for another's; in one chunk it works."""
    model = tiny.sd_model()
    plain = patched(pack, model, None, {}, F)
    assert rms(patched(pack, model, "EasyCache", CACHE, F) - plain) > 1e-3 * rms(plain)
    for n in (3, 1):
        with caplog.at_level(logging.WARNING):
            same(patched(pack, model, "EasyCache", CACHE, n), plain)
        assert "EasyCache is switched off" in caplog.text
        caplog.clear()


def test_self_attention_guidance_wants_all_frames_in_one_call(pack):
    model, settings = tiny.sd_model(), {"scale": 0.5, "blur_sigma": 2.0}
    assert patched(pack, model, "SelfAttentionGuidance", settings, F).isfinite().all()
    with pytest.raises(ValueError, match="Self-Attention Guidance knows only .* Set frames_per_batch"):
        patched(pack, model, "SelfAttentionGuidance", settings, 3)


def test_merged_tokens_are_warned_of_in_chunks_and_repeat(pack, caplog):
    """ToMe draws from the global generator: the same inversion gives the same bits."""
    model = tiny.sd_model()
    with caplog.at_level(logging.WARNING):
        patched(pack, model, "TomePatchModel", {"ratio": 0.5}, 3)
    assert "ToMe merges tokens by chance" in caplog.text
    (merging,) = pack.run("TomePatchModel", model=model, ratio=0.5)
    given = {"model": merging, "conditioning": tiny.text(), "latent": tiny.frames(*LATENT), "steps": 4}
    first, second = (pack.run("BIVDiffInvertImage", **given)[0]["samples"] for _ in range(2))
    assert torch.equal(first, second)


# Windows of a video model


@pytest.mark.parametrize("name", CONDITIONED)
def test_overlapping_windows_on_independent_frames(pack, name):
    """On a model that sees no motion, overlapping windows must fuse to the whole, each hint with its frame."""
    model, positive, negative, latent = SCENARIOS[name](pack, flip=False)
    model = tiny.seeing_together(model)
    z = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(9))
    given = {"positive": positive, "negative": negative, "latent": {"samples": z}, "steps": 3, "cfg": 3.0}
    given["scheduler"] = "normal"
    whole, windowed = (
        pack.run("BIVDiffTemporalSmoother", model=model, context_length=n, context_overlap=1, **given)[0]
        for n in (0, 3)
    )
    same(windowed["samples"], whole["samples"])


def test_windows_of_a_video_model_are_seen_together(pack):
    """A window sees all its frames and no others; windows of the whole clip's length are the clip itself."""
    model, text, latent = tiny.video_model(pack), tiny.text(), tiny.frames(*LATENT)
    # One call, a short way up: windows meet in a second.
    given = {"model": model, "conditioning": text, "steps": 1, "strength": 0.01, "solver": "ddim"}
    other = {"samples": torch.cat([latent["samples"][:-1], tiny.frames(1, 4, 8, 8, seed=99)["samples"]])}

    def moved(length: int, overlap: int) -> list[bool]:
        a, b = (
            pack.run("BIVDiffInvertVideo", latent=frames, context_length=length, context_overlap=overlap, **given)[0][
                "samples"
            ]
            for frames in (latent, other)
        )
        return [not torch.equal(x, y) for x, y in zip(a, b, strict=True)]

    assert moved(0, 0) == moved(F, 1) == [True] * F
    assert moved(3, 1) == [False, False, True, True, True]  # windows 0-2 and 2-4


# Out of memory, errors, cancel


def hints(conds: list) -> list[Tensor]:
    """The hint of every control in the chain."""
    found, control = [], conds[0][1]["control"]
    while control is not None:
        found.append(control.cond_hint_original)
        control = control.previous_controlnet
    return found


def chunked_with(pack, calls: tiny.Calls, frames_per_batch: int):
    model, positive, negative, latent = chain_of_two(pack, flip=False)
    (whole,) = pack.run("KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **KSAMPLER)
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=frames_per_batch)
    given = {"model": chunked, "positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    return given, hints(positive), whole["samples"]


@pytest.mark.parametrize(("frames_per_batch", "fail_at"), [(5, 1), (4, 2), (4, 3)])
def test_a_chunk_that_does_not_fit_is_halved(pack, caplog, frames_per_batch, fail_at):
    """The step begins anew with half as many frames, the rest of the run keeps to that, and the result is the same."""
    calls = tiny.Calls(fail_at, torch.OutOfMemoryError("CUDA out of memory."))
    given, before, whole = chunked_with(pack, calls, frames_per_batch)
    with caplog.at_level(logging.WARNING):
        (out,) = pack.run("KSampler", **given)
    same(out["samples"], whole)
    assert max(calls.rows[fail_at:]) <= 2 * (frames_per_batch // 2) < max(calls.rows)
    assert "2 frames at a time" in caplog.text
    assert all(a is b for a, b in zip(hints(given["positive"]), before, strict=True))


def test_one_frame_that_does_not_fit_is_an_error(pack):
    """Halved to 2, to 1, and then there is nothing left to halve."""

    class Full(tiny.Calls):
        def __call__(self, apply_model, args):
            self.rows.append(len(args["input"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    calls = Full()
    given, before, _ = chunked_with(pack, calls, 5)
    with pytest.raises(torch.OutOfMemoryError):
        pack.run("KSampler", **given)
    assert min(calls.rows) <= 2 and len(calls.rows) == 3
    assert all(a is b for a, b in zip(hints(given["positive"]), before, strict=True))


def test_other_errors_pass_through_and_leave_the_hints_whole(pack):
    given, before, whole = chunked_with(pack, tiny.Calls(4, RuntimeError("broken layer")), 2)
    with pytest.raises(RuntimeError, match="broken layer"):
        pack.run("KSampler", **given)
    assert all(a is b for a, b in zip(hints(given["positive"]), before, strict=True))
    (again,) = pack.run("KSampler", **given)
    same(again["samples"], whole)


def test_a_cancel_takes_effect_before_the_next_call_and_leaves_the_hints_whole(pack):
    class Cancelled(tiny.Calls):
        def __call__(self, apply_model, args):
            if len(self.rows) == 3:
                comfy.model_management.interrupt_current_processing()
            return super().__call__(apply_model, args)

    calls = Cancelled()
    given, before, whole = chunked_with(pack, calls, 2)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        pack.run("KSampler", **given)
    assert len(calls.rows) == 4
    assert all(a is b for a, b in zip(hints(given["positive"]), before, strict=True))
    (again,) = pack.run("KSampler", **given)
    same(again["samples"], whole)


def test_the_models_own_options_are_left_alone(pack):
    """Patches go on clones; a run's halved chunk size ends with the run."""
    model, positive, negative, latent = plain(pack, flip=False)
    pack.run(
        "BIVDiffFrameSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert "context_handler" not in model.model_options
    calls = tiny.Calls(1, torch.OutOfMemoryError("CUDA out of memory."))
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(model), frames_per_batch=4)
    given = {"model": chunked, "positive": positive, "negative": negative, "latent_image": latent}
    pack.run("KSampler", **given, **KSAMPLER)
    done = len(calls.rows)
    pack.run("KSampler", **given, **KSAMPLER)
    assert max(calls.rows[1:done]) == 4 and max(calls.rows[done:]) == 8


def test_a_hint_is_encoded_once_for_each_chunk(pack):
    """Not once for each step: the adapter's features are kept."""
    control = tiny.t2i_adapter()
    encodings = []
    control.t2i_model.register_forward_hook(lambda module, args, out: encodings.append(len(args[0])))
    positive, negative = controlled(pack, pair(), control, 1, False, 0.0, 1.0)
    pack.run(
        "BIVDiffFrameSampler", model=tiny.sd_model(), positive=positive, negative=negative, latent_image=empty(),
        frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert len(encodings) == 3


@tiny.needs_multigpu
def test_clones_of_a_control_for_other_devices_see_the_same_frames(pack):
    """The host runs a chunk's conds on several devices, each with its own copy of the control."""
    model, positive, negative, latent = control_net(pack, flip=False)
    control = positive[0][1]["control"]
    clone = control.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    seen = []

    class Looks(tiny.Calls):
        def __call__(self, apply_model, args):
            seen.append((clone.cond_hint_original, control.cond_hint_original))
            return super().__call__(apply_model, args)

    (chunked,) = pack.run("BIVDiffFrameChunks", model=Looks().on(model), frames_per_batch=2)
    whole = clone.cond_hint_original
    pack.run("KSampler", model=chunked, positive=positive, negative=negative, latent_image=latent, **KSAMPLER)
    assert {len(hint) for hint, _ in seen} == {2, 1}
    assert all(torch.equal(a, b) for a, b in seen)
    assert clone.cond_hint_original is whole


# Memory


def leave_free(monkeypatch, memory: float) -> None:
    """A device with so many bytes free."""
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (memory, memory) if torch_free_too else memory,
    )


def memory_of_a_frame(model) -> float:
    """What the host wants to be free before it calls the model with a frame's cond and uncond."""
    return 1.5 * model.model.memory_required([2, *LATENT[1:]])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_chunks_fill_the_memory_that_is_free(pack, monkeypatch, frames):
    """frames_per_batch 0: as many frames as fit beside the weights, which are not loaded yet."""
    model, positive, negative, latent = plain(pack, flip=False)
    leave_free(monkeypatch, model.model_size() + (frames + 0.5) * memory_of_a_frame(model))
    calls = tiny.Calls()
    pack.run(
        "BIVDiffFrameSampler", model=calls.on(model), positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=0, **KSAMPLER,
    )  # fmt: skip
    assert max(calls.rows) == 2 * frames
    assert len(calls.rows) == -(-F // frames) * KSAMPLER["steps"]


def test_a_control_takes_memory_from_the_chunks(pack, monkeypatch):
    """Its weights are loaded too."""
    model, positive, negative, latent = control_net(pack, flip=False)
    leave_free(monkeypatch, model.model_size() + 3.5 * memory_of_a_frame(model))
    calls = tiny.Calls()
    given = {"model": calls.on(model), "latent_image": latent, "frames_per_batch": 0, **KSAMPLER}
    pack.run("BIVDiffFrameSampler", positive=positive, negative=negative, **given)
    assert max(calls.rows) < 2 * 3


@pytest.mark.parametrize(("device", "fit"), [(torch.device("cpu", 1), 4), (torch.device("cpu"), 1)], ids=str)
def test_what_the_host_unloads_counts_as_free(pack, monkeypatch, device, fit):
    """Other models on the device, not the run's own; from the CPU's memory the host unloads none."""
    model, positive, negative, latent = plain(pack, flip=False)
    model, other = model.clone(), tiny.sd_model()
    model.load_device = other.load_device = device
    frame = memory_of_a_frame(model)
    leave_free(monkeypatch, 1.5 * frame)
    monkeypatch.setattr(model, "loaded_size", model.model_size)
    monkeypatch.setattr(other, "loaded_size", lambda: 3 * frame)
    loaded = [comfy.model_management.LoadedModel(one) for one in (model, other)]
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", loaded)
    conds = {"positive": [], "negative": []}
    assert frames_that_fit(model, latent["samples"].shape, conds) == fit


# Windows that the MODEL brings


class Foreign(comfy.context_windows.ContextHandlerABC):
    """Another pack's windows, which run the clip whole."""

    used = 0
    dim = 0
    context_length = 16

    def should_use_context(self, *args) -> bool:
        return True

    def get_resized_cond(self, *args):
        raise NotImplementedError

    def execute(self, calc_cond_batch, model, conds, x_in, timestep, model_options):
        self.used += 1
        return calc_cond_batch(model, conds, x_in, timestep, model_options)


def test_foreign_windows_are_left_alone_with_a_warning(pack, caplog):
    model, positive, negative, latent = plain(pack, flip=False)
    model = model.clone()
    model.model_options["context_handler"] = foreign = Foreign()
    with caplog.at_level(logging.WARNING):
        (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=2)
    assert chunked.model_options["context_handler"] is foreign
    assert "Foreign" in caplog.text
    (out,) = pack.run(
        "BIVDiffFrameSampler", model=model, positive=positive, negative=negative, latent_image=latent,
        frames_per_batch=2, **KSAMPLER,
    )  # fmt: skip
    assert foreign.used == KSAMPLER["steps"]
    assert torch.isfinite(out["samples"]).all()


CORE_WINDOWS = {
    "context_length": 3, "context_overlap": 1, "context_stride": 1, "closed_loop": False, "dim": 0, "freenoise": False,
    "context_schedule": "standard_static", "fuse_method": "overlap-linear", **tiny.NO_ANCHOR,
}  # fmt: skip


def test_core_windows_keep_their_settings(pack):
    """Re-hosted, they do bit for bit what they did, where the host does right: without control hints."""
    model, positive, negative, latent = tiny.video_model(pack), *pair(), empty()
    (windowed,) = pack.run("ContextWindowsManual", model=model, **CORE_WINDOWS)
    given = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    (expected,) = pack.run("KSampler", model=windowed, **given)
    (whole,) = pack.run("KSampler", model=model, **given)
    (rehosted,) = pack.run("BIVDiffFrameChunks", model=windowed, frames_per_batch=1)
    (out,) = pack.run("KSampler", model=rehosted, **given)
    assert torch.equal(out["samples"], expected["samples"])
    assert not torch.equal(out["samples"], whole["samples"])
    handler = rehosted.model_options["context_handler"]
    assert (handler.context_length, handler.context_overlap) == (3, 1)
    assert handler.fuse_method.name == "overlap-linear"


@pytest.mark.parametrize("anchored", [False, True] if tiny.HAS_ANCHOR else [False])
def test_core_windows_get_the_right_hints(pack, anchored):
    """The host's own windows give every window the first frames' hints; ours give each its own."""
    model, positive, negative, latent = control_net(pack, flip=False)
    anchor = {"causal_window_fix": True} if anchored else {}
    (windowed,) = pack.run("ContextWindowsManual", model=model, **{**CORE_WINDOWS, **anchor})
    given = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    (whole,) = pack.run("KSampler", model=model, **given)
    (core,) = pack.run("KSampler", model=windowed, **given)
    (out,) = pack.run("BIVDiffFrameSampler", model=windowed, **given)
    same(out["samples"], whole["samples"])
    assert rms(core["samples"] - whole["samples"]) > 1e-3 * rms(whole["samples"])


@pytest.mark.parametrize("context_length", [0, 4])
def test_core_windows_get_the_right_hints_in_the_smoother(pack, context_length):
    """A MODEL with windows of its own needs none from the node."""
    model, positive, negative, _ = control_net(pack, flip=False)
    model = tiny.seeing_together(model)
    (windowed,) = pack.run("ContextWindowsManual", model=model, **CORE_WINDOWS)
    z = torch.randn(LATENT, generator=torch.Generator().manual_seed(9))
    given = {"positive": positive, "negative": negative, "latent": {"samples": z}, "steps": 3, "cfg": 3.0}
    (whole,) = pack.run("BIVDiffTemporalSmoother", model=model, **given)
    (out,) = pack.run("BIVDiffTemporalSmoother", model=windowed, context_length=context_length, **given)
    same(out["samples"], whole["samples"])


# Noise


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
@pytest.mark.parametrize("frames_per_batch", [1, 2])
def test_frame_noise_does_not_depend_on_chunks(pack, mode, frames_per_batch):
    model, positive, negative, latent = tiny.sd_model(), *pair(), empty()
    given = {"positive": positive, "negative": negative, "latent_image": latent, "frame_noise": mode, **KSAMPLER}
    given["sampler_name"] = "euler"
    whole, chunked = (
        pack.run("BIVDiffFrameSampler", model=model, frames_per_batch=n, **given)[0]["samples"]
        for n in (F, frames_per_batch)
    )
    same(chunked, whole)
    alike = [torch.allclose(frame, whole[0], rtol=1e-3, atol=1e-3 * rms(whole)) for frame in whole[1:]]
    assert all(alike) if mode == "shared" else not any(alike)


def test_frame_noise_is_the_hosts_noise(pack):
    """independent is what RandomNoise gives, batch_index included; the same seed gives the same bits."""
    latent = {**empty(), "batch_index": [7, 8, 9, 10, 11]}
    (ours,) = pack.run("BIVDiffFrameNoise", seed=5, mode="independent")
    (core,) = pack.run("RandomNoise", noise_seed=5)
    assert torch.equal(ours.generate_noise(latent), core.generate_noise(latent))
    (shared,) = pack.run("BIVDiffFrameNoise", seed=5, mode="shared")
    noise = shared.generate_noise(latent)
    assert all(torch.equal(frame, noise[0]) for frame in noise)
    assert torch.equal(noise[0], core.generate_noise(empty())[0])


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_a_frames_noise_depends_on_its_place_in_the_clip(pack, mode):
    """Frames taken out by Latent From Batch, also in parts, get what they get in the whole clip."""
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    whole = noise.generate_noise(empty())
    (part,) = pack.run("LatentFromBatch", samples=empty(), batch_index=2, length=3)
    assert torch.equal(noise.generate_noise(part), whole[2:])
    (last,) = pack.run("LatentFromBatch", samples=part, batch_index=2, length=1)
    assert torch.equal(noise.generate_noise(last), whole[4:])


@pytest.mark.parametrize("mode", ["independent", "shared", "progressive"])
def test_frames_of_one_seed_are_alike_and_of_unit_variance(pack, mode):
    """Latent Batch Seed Behavior fixed: one place for all frames."""
    large = {"samples": torch.zeros(8, 4, 32, 32)}
    (fixed,) = pack.run("LatentBatchSeedBehavior", samples=large, seed_behavior="fixed")
    (noise,) = pack.run("BIVDiffFrameNoise", seed=5, mode=mode)
    drawn = noise.generate_noise(fixed)
    assert all(torch.equal(frame, drawn[0]) for frame in drawn)
    assert drawn.std(dim=(1, 2, 3)).tolist() == pytest.approx([1] * 8, abs=0.05)
