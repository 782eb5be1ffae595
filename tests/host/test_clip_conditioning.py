"""Conditioning of a whole clip through inversion and smoothing: first frames, control videos, poses.

ComfyUI's nodes make it for small networks of ComfyUI's classes. The oracle is SamplerCustomAdvanced, with ComfyUI's
context windows where there are any.
"""

from collections.abc import Callable

import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error
from fixtures.node_calls import AssertNotCalled
from torch import Tensor

from bivdiff_core.solvers import SOLVERS

pytestmark = [pytest.mark.floats, tiny.needs_packed_frames]

FRAMES, LATENTS, SIZE = 17, 5, 64
WINDOWS = {"context_length": 9, "context_overlap": 4}
"""Windows of three latents that overlap by one."""


def make_video(seed: int, count: int = FRAMES) -> Tensor:
    return torch.rand(count, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


def start_image(seed: int) -> tuple[str, dict]:
    return "WanImageToVideo", {"start_image": make_video(seed, 1)}


def fun_control(seed: int) -> tuple[str, dict]:
    return "WanFunControlToVideo", {"control_video": make_video(seed), "start_image": make_video(seed + 1, 1)}


def vace(seed: int) -> tuple[str, dict]:
    masks = (torch.rand(FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) > 0.3).float()
    return "WanVaceToVideo", {"control_video": make_video(seed), "control_masks": masks, "strength": 0.8}


def animate(seed: int) -> tuple[str, dict]:
    """Its character is one latent more, before those of the pose video."""
    videos = {"pose_video": make_video(seed, 13), "reference_image": make_video(seed + 1, 1)}
    return "WanAnimateToVideo", {**videos, "length": 13}


def bernini(seed: int) -> tuple[str, dict]:
    return "BerniniConditioning", {"source_video": make_video(seed), "reference_video": make_video(seed + 1, 5)}


KINDS: dict[str, tuple[str, Callable[[int], tuple[str, dict]]]] = {
    "image to video": ("i2v", start_image),
    "Fun Control": ("fun_control", fun_control),
    "VACE": ("vace", vace),
    "Animate": ("animate", animate),
    "Bernini": ("t2v", bernini),
}
"""Kind of Wan, and the node of its conditioning with inputs of a seed."""


class Clip:
    """A model with its conditioning."""

    def __init__(self, pack, kind: str):
        self.pack = pack
        model_kind, self.make_inputs = KINDS[kind]
        self.model = tiny.wan_model(kind=model_kind)
        self.vae = tiny.wan_vae()
        self.prompts = self.condition(seed=5)

    def condition(self, seed: int, **inputs) -> tuple[list, list]:
        """Positive and negative prompt, with the conditioning of a seed."""
        node_id, of_kind = self.make_inputs(seed)
        given = {"vae": self.vae, "width": SIZE, "height": SIZE, "length": FRAMES, "batch_size": 1, **of_kind, **inputs}
        return self.pack.run(node_id, positive=tiny.text(seed=1), negative=tiny.text(seed=2), **given)[:2]

    def invert(self, model=None, prompts=None, latents: int = LATENTS, **inputs) -> dict:
        latent = {"samples": noise(1, 16, latents, 8, 8)}
        text = (prompts or self.prompts)[0]
        given = {"model": model or self.model, "conditioning": text, "latent": latent, "steps": 6, "solver": "ddim"}
        return self.pack.run("BIVDiffInvertVideo", **{**given, **inputs})[0]

    def smooth(self, model=None, prompts=None, latents: int = LATENTS, **inputs) -> Tensor:
        positive, negative = prompts or self.prompts
        latent = {"samples": noise(1, 16, latents, 8, 8, seed=9)}
        given = {"model": model or self.model, "positive": positive, "negative": negative, "latent": latent}
        return self.pack.run("BIVDiffTemporalSmoother", **{**given, "cfg": 2.0, "steps": 6, **inputs})[0]["samples"]

    def sample_with_core(self, model, sampler, sigmas: Tensor, as_noise, samples: Tensor, cfg: float) -> Tensor:
        positive, negative = self.prompts
        (guider,) = self.pack.run("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
        latent = {"samples": samples}
        given = {"noise": as_noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        return self.pack.run("SamplerCustomAdvanced", **given)[0]["samples"]

    def smooth_with_core(self, model) -> Tensor:
        (sigmas,) = self.pack.run("BasicScheduler", model=model, scheduler="simple", steps=6, denoise=1.0)
        z = noise(1, 16, LATENTS, 8, 8, seed=9)
        (as_noise,) = self.pack.run("BIVDiffInvertedNoise", latent={"samples": z})
        (sampler,) = self.pack.run("KSamplerSelect", sampler_name="ddim")
        return self.sample_with_core(model, sampler, sigmas, as_noise, torch.zeros_like(z), cfg=2.0)

    def invert_with_core(self, model, levels: tuple[float, ...]) -> Tensor:
        """ComfyUI's sampler with the pack's solver along the levels of an inversion that ends below full noise."""
        sigma_min = float(model.get_model_object("model_sampling").sigma_min)
        sampler = comfy.samplers.KSAMPLER(SOLVERS["ddim"], extra_options={"sigma_min": sigma_min})
        (no_noise,) = self.pack.run("DisableNoise")
        samples = noise(1, 16, LATENTS, 8, 8)
        out = self.sample_with_core(model, sampler, torch.tensor(levels), no_noise, samples, cfg=1.0)
        return self.model.model.process_latent_in(out) * (1 - levels[-1])  # ComfyUI divides by it


@pytest.fixture(scope="module")
def clips(pack) -> dict[str, Clip]:
    return {kind: Clip(pack, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def clip(clips, request) -> Clip:
    return clips[request.param]


def core_windows(pack, model, **settings):
    """ComfyUI's windows that `WINDOWS` stands for."""
    given = {"context_schedule": "standard_static", "freenoise": False, **WINDOWS, **settings}
    return pack.run("WanContextWindowsManual", model=model, **given)[0]


def test_it_affects_inversion_and_smoothing(clip):
    other = clip.condition(seed=50)
    for run in (lambda prompts: clip.invert(prompts=prompts)["samples"], lambda prompts: clip.smooth(prompts=prompts)):
        assert relative_error(run(other), run(clip.prompts)) > 1e-4


def test_both_stages_equal_a_core_sampler(clip):
    assert_near(clip.smooth(), clip.smooth_with_core(clip.model), 1e-4)
    inverted = clip.invert(strength=0.6)
    assert_near(inverted["samples"], clip.invert_with_core(clip.model, inverted["bivdiff"]["levels"]), 1e-4)


@pytest.mark.parametrize("retain_first_frame", [False, True])
def test_windows_equal_cores(pack, clip, retain_first_frame):
    """Those of the nodes, and those of ComfyUI's Wan Context Windows on the MODEL, which can keep the first frame."""
    windowed = core_windows(pack, clip.model, retain_first_frame=retain_first_frame)
    model, inputs = (windowed, {}) if retain_first_frame else (clip.model, WINDOWS)
    smoothed, inverted = clip.smooth(model, **inputs), clip.invert(model, strength=0.6, **inputs)
    assert_near(smoothed, clip.smooth_with_core(windowed), 1e-4)
    assert_near(inverted["samples"], clip.invert_with_core(windowed, inverted["bivdiff"]["levels"]), 1e-4)
    assert relative_error(smoothed, clip.smooth()) > 1e-4


def test_the_first_frame_can_stay_in_every_window(pack, clip):
    plain, retained = (core_windows(pack, clip.model, retain_first_frame=retain) for retain in (False, True))
    assert relative_error(clip.smooth(retained), clip.smooth(plain)) > 1e-5


@pytest.mark.parametrize("kind", ["image to video", "Fun Control", "Animate"])
def test_a_model_without_its_picture_is_refused(clips, kind):
    clip, plain = clips[kind], (tiny.text(seed=1), tiny.text(seed=2))
    for run in (clip.invert, clip.smooth):
        with AssertNotCalled(clip.model), pytest.raises(ValueError, match="works on an image.*WanImageToVideo"):
            run(prompts=plain)


@pytest.mark.parametrize("kind", ["image to video", "Fun Control", "VACE", "Animate"])
@pytest.mark.parametrize("latents", [LATENTS - 1, LATENTS + 1])
def test_another_length_than_the_clip_is_named(clips, kind, latents):
    clip = clips[kind]
    message = rf"has {LATENTS} latents but the clip has {latents} \({4 * latents - 3} frames\)"
    for run in (clip.invert, clip.smooth):
        with AssertNotCalled(clip.model), pytest.raises(ValueError, match=message):
            run(latents=latents)


def test_a_pose_video_of_another_length_is_named(clips):
    clip = clips["Animate"]
    text, extra = clip.prompts[0][0]
    prompts = [[text, {**extra, "pose_video_latent": extra["pose_video_latent"][:, :, :-1]}]], clip.prompts[1]
    with AssertNotCalled(clip.model), pytest.raises(ValueError, match="pose video has 3 latents but the clip has 5"):
        clip.smooth(prompts=prompts)


def test_a_reference_image_of_vace_goes_before_the_clip(pack, clips):
    """It is one latent more; LatentConcat puts its latent before the clip, Trim Video Latent removes it."""
    clip = clips["VACE"]
    prompts = clip.condition(seed=5, reference_image=make_video(8, 1))
    with pytest.raises(ValueError, match="VACE control video has 6 latents but the clip has 5.*LatentConcat"):
        clip.invert(prompts=prompts)
    (image,) = pack.run("VAEEncode", vae=clip.vae, pixels=make_video(8, 1))
    (latent,) = pack.run("LatentConcat", samples1=image, samples2={"samples": noise(1, 16, LATENTS, 8, 8)}, dim="t")
    inverted = clip.invert(prompts=prompts, latent=latent)
    smoothed = {"samples": clip.smooth(prompts=prompts, latent=inverted)}
    (trimmed,) = pack.run("TrimVideoLatent", samples=smoothed, trim_amount=1)
    assert trimmed["samples"].shape == (1, 16, LATENTS, 8, 8)
