"""Patches of other nodes and the MODEL's schedule apply in every node of the pack, for any kind of MODEL."""

import copy
import itertools

import comfy.hooks
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_base import ModelType
from comfy.patcher_extension import PatcherInjection, WrappersMP, add_wrapper_with_key
from fixtures import tiny_models as tiny
from fixtures.fake_animatediff import LinearBetaSchedule
from fixtures.gaussian_mixture import GaussianMixture, assert_near, rms
from fixtures.node_calls import collect_warnings, make_inputs
from torch import Tensor

from bivdiff_core.grids import sd_sigma

pytestmark = pytest.mark.floats

FRAMES = 4
SCALE = 0.9
RUNS = {
    "frames": ("BIVDiffFrameSampler", {"frames_per_batch": 2, "seed": 1}),
    "inverted frames": ("BIVDiffInvertImage", {"frames_per_batch": 2}),
    "inverted clip": ("BIVDiffInvertVideo", {"solver": "fireflow"}),
    "inverted windows": ("BIVDiffInvertVideo", {"context_length": 3, "context_overlap": 2}),
    "smoothed clip": ("BIVDiffTemporalSmoother", {"sampler_name": "heun"}),
    "smoothed windows": ("BIVDiffTemporalSmoother", {"context_length": 3, "context_overlap": 2}),
}
VIDEO_RUNS = [name for name, (node_id, _) in RUNS.items() if node_id.endswith(("Video", "Smoother"))]
MODELS = {
    "image": (lambda pack: tiny.sd_model(), "out.2", [name for name in RUNS if name not in VIDEO_RUNS]),
    "image as video": (lambda pack: tiny.as_video_model(tiny.sd_model()), "out.2", VIDEO_RUNS),
    "UNet3D": (tiny.video_model, "unet.conv_out", VIDEO_RUNS),
    "VidRD": (tiny.vidrd_model, "out.2", VIDEO_RUNS),
}
"""Kinds of MODEL: a constructor, the name of its network's last layer, and the runs that accept it."""


def run(pack, name: str, model, positive: list, negative: list) -> Tensor:
    node_id, settings = RUNS[name]
    noise = {"samples": torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(7))}
    texts = {"positive": positive, "negative": negative, "cfg": 2.0}
    if node_id.startswith("BIVDiffInvert"):
        texts = {"conditioning": positive}
    frames = node_id == "BIVDiffFrameSampler"
    latent = {"latent_image": tiny.make_latent(FRAMES, 4, 8, 8, seed=7)} if frames else {"latent": noise}
    inputs = {"model": model, "steps": 3, "scheduler": "normal", **texts, **latent, **settings}
    return pack.run(node_id, **inputs)[0]["samples"]


# Patches, injections, wrappers and hooks. Most scale the network's output, as a scaled last layer does.


def scale_prediction(x: Tensor, denoised: Tensor) -> Tensor:
    return x - SCALE * (x - denoised)


def scale_layer(network: torch.nn.Module, layer: str) -> None:
    for parameter in network.get_submodule(layer).parameters():
        parameter.data *= SCALE


def make_lora(model, layer: str) -> dict[str, Tensor]:
    last, name = model.model.diffusion_model.get_submodule(layer), f"diffusion_model.{layer}"
    return {f"{name}.diff": (SCALE - 1) * last.weight, f"{name}.diff_b": (SCALE - 1) * last.bias}


def with_lora(model, layer, *conds):
    return comfy.sd.load_lora_for_models(model, None, make_lora(model, layer), 1.0, 0.0)[0], *conds


def with_hooks(model, layer, *conds):
    hooks = comfy.hooks.create_hook_lora(make_lora(model, layer), 1.0, 0.0)
    return model, *(comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in conds)


def with_object_patch(model, layer, *conds):
    last = copy.deepcopy(model.model.diffusion_model.get_submodule(layer))
    for parameter in last.parameters():
        parameter.data *= SCALE
    model.add_object_patch(f"diffusion_model.{layer}", last)
    return model, *conds


def with_injection(model, layer, *conds):
    hooks = []

    def inject(patcher):
        last = patcher.model.diffusion_model.get_submodule(layer)
        hooks.append(last.register_forward_hook(lambda layer, args, out: SCALE * out))

    model.set_injections("test", [PatcherInjection(inject, lambda patcher: hooks.pop().remove())])
    return model, *conds


def with_function_wrapper(model, layer, *conds):
    def wrapper(apply_model, args):
        return scale_prediction(args["input"], apply_model(args["input"], args["timestep"], **args["c"]))

    model.set_model_unet_function_wrapper(wrapper)
    return model, *conds


def with_post_cfg_function(model, layer, *conds):
    model.set_model_sampler_post_cfg_function(lambda args: scale_prediction(args["input"], args["denoised"]))
    return model, *conds


def scale_diffusion_model(executor, *args, **kwargs):
    return SCALE * executor(*args, **kwargs)


def scale_denoised(executor, x, *args, **kwargs):
    return scale_prediction(x, executor(x, *args, **kwargs))


def scale_conds(executor, model, conds, x, *args, **kwargs):
    return [scale_prediction(x, out) for out in executor(model, conds, x, *args, **kwargs)]


def scale_in_sampler(executor, model, sigmas, extra_args, *args, **kwargs):
    add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", scale_diffusion_model, extra_args["model_options"], is_model_options=True
    )
    return executor(model, sigmas, extra_args, *args, **kwargs)


def scale_in_run(executor, *args, **kwargs):
    options = executor.class_obj.model_options
    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", scale_diffusion_model, options, is_model_options=True)
    return executor(*args, **kwargs)


def with_wrapper(kind: str, function):
    def apply(model, layer, *conds):
        model.add_wrapper_with_key(kind, "test", function)
        return model, *conds

    return apply


def halve_weights(network: torch.nn.Module, layers: str) -> None:
    """Halve the weights of attention layers within frames, not of temporal ones."""
    for name, parameter in network.named_parameters():
        if f".{layers}." in name and "temp_" not in name and "transformer_in." not in name:
            parameter.data *= 0.5


def halve_attention_values(network: torch.nn.Module, layer: str) -> None:
    halve_weights(network, "attn1.to_v")


def halve_text_attention(network: torch.nn.Module, layer: str) -> None:
    halve_weights(network, "attn2.to_out.0")


def with_attention_patch(model, layer, *conds):
    model.set_model_attn1_patch(lambda queries, context, values, options: (queries, context, 0.5 * values))
    return model, *conds


def with_attention_output_patch(model, layer, *conds):
    model.set_model_attn2_output_patch(lambda out, options: 0.5 * out)
    return model, *conds


def with_replaced_attention(model, layer, *conds):
    """Replace the self-attention in every block that a network of this size can have."""

    def attention(q, k, v, options):
        return optimized_attention(q, k, 0.5 * v, options["n_heads"])

    for part, number in itertools.product(("input", "middle", "output"), range(12)):
        model.set_model_attn1_replace(attention, part, number)
    return model, *conds


MECHANISMS = {
    "lora": (with_lora, scale_layer),
    "hooks": (with_hooks, scale_layer),
    "object patch": (with_object_patch, scale_layer),
    "injection": (with_injection, scale_layer),
    "function wrapper": (with_function_wrapper, scale_layer),
    "post cfg function": (with_post_cfg_function, scale_layer),
    "diffusion model": (with_wrapper(WrappersMP.DIFFUSION_MODEL, scale_diffusion_model), scale_layer),
    "apply model": (with_wrapper(WrappersMP.APPLY_MODEL, scale_denoised), scale_layer),
    "predict noise": (with_wrapper(WrappersMP.PREDICT_NOISE, scale_denoised), scale_layer),
    "calc cond batch": (with_wrapper(WrappersMP.CALC_COND_BATCH, scale_conds), scale_layer),
    "sampler sample": (with_wrapper(WrappersMP.SAMPLER_SAMPLE, scale_in_sampler), scale_layer),
    "outer sample": (with_wrapper(WrappersMP.OUTER_SAMPLE, scale_in_run), scale_layer),
    "attention patch": (with_attention_patch, halve_attention_values),
    "attention output patch": (with_attention_output_patch, halve_text_attention),
    "replaced attention": (with_replaced_attention, halve_attention_values),
}
"""How another node changes a MODEL or its conditioning, and the equivalent change of the network's weights."""
GUIDANCE = ("post cfg function",)
"""The mechanisms that are guidance, which an inversion ignores."""


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def expected(pack, kind):
    """Results of every run with directly changed weights, and (last) with unchanged ones."""
    texts = tiny.text(seed=1), tiny.text(seed=2)
    make, layer, runs = MODELS[kind]

    def all_runs(change) -> dict[str, Tensor]:
        model = make(pack)
        change(model.model.diffusion_model, layer)
        return {name: run(pack, name, model, *texts) for name in runs}

    return {
        change: all_runs(change)
        for change in (scale_layer, halve_attention_values, halve_text_attention, lambda *args: None)
    }


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_patches_of_a_model_apply(pack, kind, expected, mechanism):
    apply, change = MECHANISMS[mechanism]
    make, layer, runs = MODELS[kind]
    *_, unchanged = expected.values()
    for name in runs:
        out = run(pack, name, *apply(make(pack), layer, tiny.text(seed=1), tiny.text(seed=2)))
        if mechanism in GUIDANCE and name.startswith("inverted"):
            assert torch.equal(out, unchanged[name])
            continue
        changed = expected[change][name]
        assert rms(changed - unchanged[name]) > 1e-3 * rms(changed)
        assert_near(out, changed, 2e-5)


def test_patches_without_effect_raise_a_warning(pack):
    """FreeU patches ComfyUI's UNet blocks, which diffusers' UNet does not have."""
    (model,) = pack.run("FreeU_V2", model=tiny.video_model(pack), b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    for node_id, latent in (
        ("BIVDiffInvertVideo", tiny.make_latent(FRAMES, 4, 8, 8)),
        (
            "BIVDiffTemporalSmoother",
            {"samples": torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(7))},
        ),
    ):
        assert "have no effect on this model: output_block_patch" in collect_warnings(
            pack, node_id, **make_inputs(node_id, model, latent)
        )


@pytest.mark.parametrize(
    ("patch", "settings"),
    [
        ("PerturbedAttentionGuidance", {"scale": 3.0}),
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
        ("TomePatchModel", {"ratio": 0.5}),
        ("EasyCache", {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}),
    ],
)
def test_cores_patches_work_on_the_video_unet(pack, patch, settings):
    """In smoothing they change the result."""
    video = tiny.video_model(pack)
    (patched,) = pack.run(patch, model=video, **settings)
    inputs = {"positive": tiny.text(seed=1), "negative": tiny.text(seed=2)}
    plain, changed = (run(pack, "smoothed clip", model, *inputs.values()) for model in (video, patched))
    assert changed.isfinite().all() and rms(changed - plain) > 1e-3 * rms(plain)


# Schedules and prediction types


MIXTURE = GaussianMixture(shape=(4, 8, 8), means_std=0.3, spread=0.95)


def patch_linear_betas(pack, model):
    """AnimateDiff's schedule, as a patch like that of AnimateDiff-Evolved."""
    model.add_object_patch("model_sampling", LinearBetaSchedule())
    return model


def patch_v_prediction(pack, model):
    return pack.run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=False)[0]


def patch_zero_terminal_snr(pack, model):
    return pack.run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)[0]


PATCHES = {
    "linear betas": (patch_linear_betas, ModelType.EPS, 25.146),
    "v": (patch_v_prediction, ModelType.V_PREDICTION, 14.6146),
    "zero terminal SNR": (patch_zero_terminal_snr, ModelType.V_PREDICTION, 4518.76),
}
"""Patches of the schedule, with the network's prediction type and the schedule's sigma_max."""


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", PATCHES)
def test_a_patched_schedule_works_with_stable_diffusions(pack, name, strength):
    """Invert with both branches, mix and smooth: the result is near the input.

    Both networks are exact denoisers, each for its MODEL's schedule and prediction type.
    """
    image = tiny.exact_model(tiny.TinySD, MIXTURE)
    patch, kind, sigma_max = PATCHES[name]
    video = patch(pack, tiny.as_video_model(tiny.exact_model(tiny.TinySD, MIXTURE)))
    network = video.model.diffusion_model
    network.sigmas, network.kind = video.get_model_object("model_sampling").sigmas, kind

    latent = {"samples": (MIXTURE.sample(6) / image.model.latent_format.scale_factor).float()}
    inputs = {"steps": 30, "scheduler": "normal", "strength": strength}
    inverted = {
        branch: pack.run(
            f"BIVDiffInvert{branch}", model=model, conditioning=tiny.text(), latent=latent, solver="fireflow",
            **inputs,
        )[0]
        for branch, model in (("Image", image), ("Video", video))
    }  # fmt: skip
    reached = [inverted[branch]["bivdiff"]["sigma"] for branch in ("Image", "Video")]
    expected_sigmas = [14.6146, sigma_max] if strength == 1 else [sd_sigma(600)] * 2
    assert reached == pytest.approx(expected_sigmas, rel=1e-3)
    a, b = (inverted[branch]["samples"].flatten() for branch in ("Image", "Video"))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99

    mixed, _ = pack.run(
        "BIVDiffMixedInversion", image_latent=inverted["Image"], video_latent=inverted["Video"], mixing_ratio=0.4
    )
    if strength == 1:
        assert mixed["samples"].std().item() == pytest.approx(1, abs=0.03)
    (back,) = pack.run(
        "BIVDiffTemporalSmoother", model=video, positive=tiny.text(), negative=tiny.text(), latent=mixed, cfg=1.0,
        sampler_name="heun", **inputs,
    )  # fmt: skip
    assert_near(back["samples"], latent["samples"], 0.1)
