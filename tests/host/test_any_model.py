"""Nothing assumes how a MODEL was made: what other nodes put on it stays in force, and so does its own schedule."""

import comfy.hooks
import comfy.sd
import pytest
import tiny_models as tiny
import torch
from analytic import GaussianMixture, rms
from animatediff_standin import LinearBetas
from comfy.model_base import ModelType
from comfy.patcher_extension import PatcherInjection, WrappersMP, add_wrapper_with_key
from torch import Tensor

from bivdiff_core.grids import sd_sigma

F = 4
SCALE = 0.9
LAYER = "diffusion_model.out.2"
RUNS = {
    "frames": ("BIVDiffFrameSampler", {"frames_per_batch": 2, "seed": 1}),
    "inverted frames": ("BIVDiffInvertImage", {"frames_per_batch": 2}),
    "inverted clip": ("BIVDiffInvertVideo", {"solver": "fireflow"}),
    "inverted windows": ("BIVDiffInvertVideo", {"context_length": 3, "context_overlap": 2}),
    "smoothed clip": ("BIVDiffTemporalSmoother", {"sampler_name": "heun"}),
    "smoothed windows": ("BIVDiffTemporalSmoother", {"context_length": 3, "context_overlap": 2}),
}


def run(pack, name: str, model, positive: list, negative: list) -> Tensor:
    node_id, settings = RUNS[name]
    noise = torch.randn(F, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    texts = {"positive": positive, "negative": negative, "cfg": 2.0}
    if node_id.startswith("BIVDiffInvert"):
        texts = {"conditioning": positive}
    latent = {"latent_image" if node_id == "BIVDiffFrameSampler" else "latent": {"samples": noise}}
    if node_id in ("BIVDiffInvertVideo", "BIVDiffTemporalSmoother"):
        model = tiny.seeing_together(model)
    given = {"model": model, "steps": 3, "scheduler": "normal", **texts, **latent, **settings}
    return tiny.run(pack, node_id, **given)[0]["samples"]


# Patches, injections, wrappers and hooks. Each makes the network's output smaller, as if its last layer were.


def scaled_denoised(x: Tensor, denoised: Tensor) -> Tensor:
    return x - SCALE * (x - denoised)


def scaled_layer(network: torch.nn.Module) -> None:
    for parameter in network.out[2].parameters():
        parameter.data *= SCALE


def lora() -> dict[str, Tensor]:
    layer = tiny.sd_model().model.diffusion_model.out[2]
    return {f"{LAYER}.diff": (SCALE - 1) * layer.weight, f"{LAYER}.diff_b": (SCALE - 1) * layer.bias}


def with_lora(model, *conds):
    return comfy.sd.load_lora_for_models(model, None, lora(), 1.0, 0.0)[0], *conds


def with_hooks(model, *conds):
    hooks = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0)
    return model, *(comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in conds)


def with_object_patch(model, *conds):
    layer = tiny.sd_model().model.diffusion_model.out[2]
    for parameter in layer.parameters():
        parameter.data *= SCALE
    model.add_object_patch(LAYER, layer)
    return model, *conds


def with_injection(model, *conds):
    hooks = []

    def inject(patcher):
        layer = patcher.model.diffusion_model.out[2]
        hooks.append(layer.register_forward_hook(lambda layer, args, out: SCALE * out))

    model.set_injections("test", [PatcherInjection(inject, lambda patcher: hooks.pop().remove())])
    return model, *conds


def with_function_wrapper(model, *conds):
    def wrapper(apply_model, args):
        return scaled_denoised(args["input"], apply_model(args["input"], args["timestep"], **args["c"]))

    model.set_model_unet_function_wrapper(wrapper)
    return model, *conds


def with_post_cfg_function(model, *conds):
    model.set_model_sampler_post_cfg_function(lambda args: scaled_denoised(args["input"], args["denoised"]))
    return model, *conds


def of_diffusion_model(executor, *args, **kwargs):
    return SCALE * executor(*args, **kwargs)


def of_denoised(executor, x, *args, **kwargs):
    return scaled_denoised(x, executor(x, *args, **kwargs))


def of_conds(executor, model, conds, x, *args, **kwargs):
    return [scaled_denoised(x, out) for out in executor(model, conds, x, *args, **kwargs)]


def of_sampler(executor, model, sigmas, extra_args, *args, **kwargs):
    add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", of_diffusion_model, extra_args["model_options"], is_model_options=True
    )
    return executor(model, sigmas, extra_args, *args, **kwargs)


def of_run(executor, *args, **kwargs):
    options = executor.class_obj.model_options
    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", of_diffusion_model, options, is_model_options=True)
    return executor(*args, **kwargs)


def with_wrapper(kind: str, function):
    def apply(model, *conds):
        model.add_wrapper_with_key(kind, "test", function)
        return model, *conds

    return apply


def halved_values(network: torch.nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("attn1.to_v.weight"):
            parameter.data *= 0.5


def with_attention_patch(model, *conds):
    model.set_model_attn1_patch(lambda queries, context, values, options: (queries, context, 0.5 * values))
    return model, *conds


MECHANISMS = {
    "lora": (with_lora, scaled_layer),
    "hooks": (with_hooks, scaled_layer),
    "object patch": (with_object_patch, scaled_layer),
    "injection": (with_injection, scaled_layer),
    "function wrapper": (with_function_wrapper, scaled_layer),
    "post cfg function": (with_post_cfg_function, scaled_layer),
    "diffusion model": (with_wrapper(WrappersMP.DIFFUSION_MODEL, of_diffusion_model), scaled_layer),
    "apply model": (with_wrapper(WrappersMP.APPLY_MODEL, of_denoised), scaled_layer),
    "predict noise": (with_wrapper(WrappersMP.PREDICT_NOISE, of_denoised), scaled_layer),
    "calc cond batch": (with_wrapper(WrappersMP.CALC_COND_BATCH, of_conds), scaled_layer),
    "sampler sample": (with_wrapper(WrappersMP.SAMPLER_SAMPLE, of_sampler), scaled_layer),
    "outer sample": (with_wrapper(WrappersMP.OUTER_SAMPLE, of_run), scaled_layer),
    "attention patch": (with_attention_patch, halved_values),
}
"""How another node changes a MODEL or its conditioning, and the change of the network that this amounts to."""
GUIDANCE = ("post cfg function",)
"""Those of them that guide, which an inversion leaves out."""


@pytest.fixture(scope="module")
def expected(pack):
    """What every run makes with a network that was changed by hand, and with one that was not."""
    texts = tiny.text(seed=1), tiny.text(seed=2)

    def all_runs(change) -> dict[str, Tensor]:
        model = tiny.sd_model()
        change(model.model.diffusion_model)
        return {name: run(pack, name, model, *texts) for name in RUNS}

    return {change: all_runs(change) for change in (scaled_layer, halved_values, lambda network: None)}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_is_on_a_model_stays_in_force(pack, expected, mechanism):
    apply, change = MECHANISMS[mechanism]
    *_, unchanged = expected.values()
    for name in RUNS:
        out = run(pack, name, *apply(tiny.sd_model(), tiny.text(seed=1), tiny.text(seed=2)))
        if mechanism in GUIDANCE and name.startswith("inverted"):
            assert torch.equal(out, unchanged[name])
            continue
        whole = expected[change][name]
        assert rms(whole - unchanged[name]) > 1e-3 * rms(whole)
        assert rms(out - whole) < 2e-5 * rms(whole), name


# Schedules and kinds of prediction


MIXTURE = GaussianMixture(shape=(4, 8, 8), means_std=0.3, spread=0.95)


def linear_betas(pack, model):
    """AnimateDiff's schedule, patched in as its pack does."""
    model.add_object_patch("model_sampling", LinearBetas())
    return model


def v_prediction(pack, model):
    return pack.run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=False)[0]


def zero_terminal_snr(pack, model):
    return pack.run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)[0]


PATCHES = {
    "linear betas": (linear_betas, ModelType.EPS, 25.146),
    "v": (v_prediction, ModelType.V_PREDICTION, 14.6146),
    "zero terminal SNR": (zero_terminal_snr, ModelType.V_PREDICTION, 4518.76),
}
"""Patches of a schedule, what the network predicts under it, and the sigma_max that it ends at."""


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", PATCHES)
def test_a_patched_schedule_beside_stable_diffusions(pack, name, strength):
    """Inverted, mixed and smoothed: both branches say where a frame goes, and the video model brings it back.

    Both networks know the data exactly, each at the levels and in the words of its own MODEL.
    """
    image = tiny.exact_model(tiny.TinySD, MIXTURE)
    patch, kind, sigma_max = PATCHES[name]
    video = patch(pack, tiny.seeing_together(tiny.exact_model(tiny.TinySD, MIXTURE)))
    network = video.model.diffusion_model
    network.sigmas, network.kind = video.get_model_object("model_sampling").sigmas, kind

    latent = {"samples": (MIXTURE.sample(6) / image.model.latent_format.scale_factor).float()}
    given = {"steps": 30, "scheduler": "normal", "strength": strength}
    inverted = {
        branch: tiny.run(
            pack, f"BIVDiffInvert{branch}", model=model, conditioning=tiny.text(), latent=latent, solver="fireflow",
            **given,
        )[0]
        for branch, model in (("Image", image), ("Video", video))
    }  # fmt: skip
    reached = [inverted[branch]["bivdiff"]["sigma"] for branch in ("Image", "Video")]
    tops = [14.6146, sigma_max] if strength == 1 else [sd_sigma(600)] * 2
    assert reached == pytest.approx(tops, rel=1e-3)
    a, b = (inverted[branch]["samples"].flatten() for branch in ("Image", "Video"))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99

    mixed, _ = tiny.run(
        pack, "BIVDiffMixedInversion", image_latent=inverted["Image"], video_latent=inverted["Video"], mixing_ratio=0.4
    )
    if strength == 1:
        assert mixed["samples"].std().item() == pytest.approx(1, abs=0.03)
    (back,) = tiny.run(
        pack, "BIVDiffTemporalSmoother", model=video, positive=tiny.text(), negative=tiny.text(), latent=mixed, cfg=1.0,
        sampler_name="heun", **given,
    )  # fmt: skip
    assert rms(back["samples"] - latent["samples"]) < 0.1 * rms(latent["samples"])
