"""MODELs with quantised weights (GGUF, fp8) in every stage, with LoRA, chunks, windows and two experts."""

import comfy.sd
import pytest
import torch
from fixtures import quantized_models
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise
from fixtures.gaussian_mixture import assert_near, relative_error
from torch import Tensor

pytestmark = pytest.mark.floats

LATENTS = 4
WINDOWS = {"context_length": 3, "context_overlap": 1}
KINDS = {
    "gguf": quantized_models.quantize,
    "fp8": quantized_models.store_in_fp8,
    "scaled fp8": quantized_models.store_in_scaled_fp8,
}


class Pair:
    """A MODEL with quantised weights, and one with the same weights in float32."""

    def __init__(self, kind: str, plain):
        self.quantized, self.plain = KINDS[kind](plain), plain


@pytest.fixture(scope="module", params=KINDS)
def wan(request) -> Pair:
    return Pair(request.param, tiny.wan_model(seed=4))


@pytest.fixture(scope="module", params=KINDS)
def experts(request) -> tuple[Pair, Pair]:
    return tuple(Pair(request.param, tiny.wan_model(seed=seed)) for seed in (4, 14))


@pytest.fixture(scope="module", params=["gguf", "fp8"])
def qwen(request) -> Pair:
    return Pair(request.param, tiny.qwen_model())


def add_lora(model):
    """The MODEL with a LoRA on all its attention layers, as core's loader adds it."""
    weights = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if "attn" in name and len(weight.shape) == 2:
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            weights[f"{layer}.lora_up.weight"] = 0.3 * noise(weight.shape[0], 4, seed=1)
            weights[f"{layer}.lora_down.weight"] = noise(4, weight.shape[1], seed=2) / weight.shape[1] ** 0.5
    assert weights
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]


def run_clip_stages(pack, model, **inputs) -> Tensor:
    """Invert a clip and smooth other noise; returns both results."""
    clip = {"samples": noise(1, 16, LATENTS, 8, 8, seed=3)}
    (inverted,) = pack.run("BIVDiffInvertVideo", model=model, conditioning=tiny.text(), latent=clip, steps=4, **inputs)
    z = tiny.make_inverted_latent(
        pack, noise(1, 16, LATENTS, 8, 8), latent_format="Wan21", family="flow", sigma=1.0, at_sigma_max=True
    )
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "cfg": 2.0}
    (smoothed,) = pack.run("BIVDiffTemporalSmoother", model=model, latent=z, steps=4, **texts, **inputs)
    return torch.cat([inverted["samples"], smoothed["samples"]])


def run_frame_stages(pack, model, frames_per_batch: int) -> Tensor:
    """Generate frames and invert other frames; returns both results."""
    empty, frames = torch.zeros(LATENTS, 16, 1, 8, 8), noise(LATENTS, 16, 1, 8, 8, seed=3)
    texts = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2), "cfg": 2.0}
    inputs = {"model": model, "steps": 3, "frames_per_batch": frames_per_batch}
    (generated,) = pack.run("BIVDiffFrameSampler", latent_image={"samples": empty}, **texts, **inputs)
    (inverted,) = pack.run("BIVDiffInvertImage", latent={"samples": frames}, conditioning=tiny.text(), **inputs)
    return torch.cat([generated["samples"], inverted["samples"]])


@pytest.mark.parametrize("windows", [{}, WINDOWS], ids=["whole clip", "windows"])
def test_clip_stages(pack, wan, windows):
    assert_near(*(run_clip_stages(pack, model, **windows) for model in (wan.quantized, wan.plain)), 1e-4)


def test_frames_of_a_video_model(pack, wan):
    """Wan inverts single frames in place of an image model."""
    frames = {"samples": noise(LATENTS, 16, 1, 8, 8, seed=3)}
    inputs = {"conditioning": tiny.text(), "latent": frames, "steps": 4, "frames_per_batch": 3}
    inverted = [
        pack.run("BIVDiffInvertImage", model=model, **inputs)[0]["samples"] for model in (wan.quantized, wan.plain)
    ]
    assert_near(*inverted, 1e-4)


def test_two_experts(pack, experts):
    high, low = experts
    ours = run_clip_stages(pack, high.quantized, low_noise_model=low.quantized, **WINDOWS)
    assert_near(ours, run_clip_stages(pack, high.plain, low_noise_model=low.plain, **WINDOWS), 1e-4)
    assert relative_error(ours, run_clip_stages(pack, high.quantized, **WINDOWS)) > 1e-3


@pytest.mark.parametrize("frames_per_batch", [0, 1, 3])
def test_frame_stages(pack, qwen, frames_per_batch):
    assert_near(*(run_frame_stages(pack, model, frames_per_batch) for model in (qwen.quantized, qwen.plain)), 1e-4)


def assert_lora_acts(quantized: Tensor, plain: Tensor, without: Tensor) -> None:
    """The LoRA changes the result as it does in float32. ComfyUI rounds fp8 weights again after adding it."""
    effect = relative_error(without, plain)
    assert effect > 0.02 and relative_error(quantized, plain) < effect / 2


def test_lora_in_clip_stages(pack, experts):
    high, low = experts
    (quantized, quantized_low), (plain, plain_low) = (
        (add_lora(getattr(high, name)), add_lora(getattr(low, name))) for name in ("quantized", "plain")
    )
    before = run_clip_stages(pack, high.quantized, low_noise_model=low.quantized, **WINDOWS)
    ours = run_clip_stages(pack, quantized, low_noise_model=quantized_low, **WINDOWS)
    assert_lora_acts(ours, run_clip_stages(pack, plain, low_noise_model=plain_low, **WINDOWS), before)
    after = run_clip_stages(pack, high.quantized, low_noise_model=low.quantized, **WINDOWS)
    assert torch.equal(before, after)  # nothing of the LoRA is left


def test_lora_in_frame_stages(pack, qwen):
    quantized, plain = add_lora(qwen.quantized), add_lora(qwen.plain)
    before = run_frame_stages(pack, qwen.quantized, 3)
    ours = run_frame_stages(pack, quantized, 3)
    assert_lora_acts(ours, run_frame_stages(pack, plain, 3), before)
    assert_near(run_frame_stages(pack, quantized, 1), ours, 1e-5)
    assert torch.equal(run_frame_stages(pack, qwen.quantized, 3), before)
