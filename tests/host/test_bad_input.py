"""Invalid inputs raise an error with the node's name before any model call."""

import asyncio
import re

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import CORE_WINDOWS, FRAME_COUNT, make_controlled_prompts, make_prompts, noise, random
from fixtures.node_calls import make_inputs

from bivdiff_core.grids import sd_sigma

LATENT_SHAPE = (FRAME_COUNT, 4, 8, 8)
NAMES = {
    "BIVDiffFrameSampler": "Frame-wise Image Sampler",
    "BIVDiffInvertImage": "DDIM Inverse (Image)",
    "BIVDiffInvertVideo": "DDIM Inverse (Video)",
    "BIVDiffMixedInversion": "Mixed Inversion Blend",
    "BIVDiffTemporalSmoother": "Video Temporal Smoother",
    "BIVDiffInvertedNoise": "Inverted Latent to Noise",
}
SAMPLING_NODES = ["BIVDiffFrameSampler", "BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffTemporalSmoother"]
INVERSION_NODES = ["BIVDiffInvertImage", "BIVDiffInvertVideo"]
VIDEO_NODES = ["BIVDiffInvertVideo", "BIVDiffTemporalSmoother"]


def assert_rejected(pack, node_id: str, model, *parts: str, latent=None, positive=None, **inputs) -> None:
    """Assert that the node raises an error with its name and `parts`, without a model call."""
    calls = tiny.CallCounter()
    if latent is None:
        latent = (
            tiny.make_latent(*LATENT_SHAPE) if node_id == "BIVDiffFrameSampler" else {"samples": noise(*LATENT_SHAPE)}
        )
    if model is not None:
        inputs["model"] = calls.on(model)
    if node_id in SAMPLING_NODES:
        positive = positive or tiny.text(seed=1)
        inputs |= (
            {"conditioning": positive}
            if node_id in INVERSION_NODES
            else {"positive": positive, "negative": make_prompts()[1]}
        )
        inputs["latent_image" if node_id == "BIVDiffFrameSampler" else "latent"] = latent
        inputs.setdefault("steps", 4)
    elif node_id == "BIVDiffInvertedNoise":
        inputs["latent"] = latent
    with pytest.raises(ValueError) as error:
        pack.run(node_id, **inputs)
    message = str(error.value)
    assert message.startswith(NAMES[node_id] + ": ") and message.endswith(".")
    for part in parts:
        assert part in message
    assert calls.rows == []


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_demo_models_at_an_unsupported_size(pack, node_id):
    """They would run for minutes and generate nothing useful."""
    image, video, clip, *_ = pack.run("BIVDiffDemoModels", variant="base")
    (text,) = pack.run("CLIPTextEncode", clip=clip, text="a red fish")
    large = (FRAME_COUNT, 4, 32, 16)
    latent = tiny.make_latent(*large) if node_id == "BIVDiffFrameSampler" else {"samples": noise(*large)}
    model = video if node_id in VIDEO_NODES else image
    assert_rejected(
        pack, node_id, model, "128x256 pixels, expected 64x64", "Upscale Image", latent=latent, positive=text
    )


@pytest.fixture(scope="module")
def sd():
    return tiny.sd_model()


@pytest.fixture(scope="module")
def wan():
    return tiny.wan_model()


# Shapes


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_a_video_latent_for_an_image_model(pack, sd, node_id):
    latent = {"samples": noise(1, 4, 3, 8, 8)}
    assert_rejected(
        pack,
        node_id,
        sd,
        "needs a batch of frames",
        "the latent is a clip of 3 latents, 8x8 with 4 channels",
        latent=latent,
    )


@pytest.mark.parametrize("node_id", ["BIVDiffInvertImage", "BIVDiffInvertVideo", "BIVDiffTemporalSmoother"])
def test_frames_for_a_model_of_video_latents(pack, wan, node_id):
    latent = {"samples": noise(3, 16, 8, 8)}
    assert_rejected(
        pack, node_id, wan, "needs a video latent", "the latent is 3 frames, 8x8 with 16 channels", latent=latent
    )


def test_a_video_latent_in_the_frame_sampler(pack, wan):
    latent = {"samples": noise(1, 16, 3, 8, 8)}
    assert_rejected(pack, "BIVDiffFrameSampler", wan, "a video of 3 latent frames", "batch_size", latent=latent)


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_channels_of_another_latent_space(pack, sd, node_id):
    latent = {"samples": noise(FRAME_COUNT, 16, 8, 8)}
    assert_rejected(pack, node_id, sd, "16 channels but this model needs 4", "the VAE that belongs to", latent=latent)


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_no_frames(pack, sd, node_id):
    assert_rejected(pack, node_id, sd, "holds no frames", "Select Frames", latent={"samples": torch.zeros(0, 4, 8, 8)})


@pytest.mark.parametrize("node_id", ["BIVDiffMixedInversion", "BIVDiffInvertedNoise"])
def test_no_frames_without_a_model(pack, node_id):
    latent = {"samples": torch.zeros(0, 4, 8, 8)}
    inputs = {"latent": latent}
    if node_id == "BIVDiffMixedInversion":
        inputs = {"image_latent": latent, "video_latent": latent}
    with pytest.raises(ValueError, match=re.escape(NAMES[node_id]) + ".* holds no frames"):
        pack.run(node_id, **inputs)


@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_one_frame_for_a_video_model(pack, sd, wan, node_id):
    assert_rejected(pack, node_id, sd, "has one frame", "at least 2", latent={"samples": noise(1, 4, 8, 8)})
    one = {"samples": noise(1, 16, 1, 8, 8)}
    assert_rejected(pack, node_id, wan, "has one frame", "at least 2", latent=one, scheduler="simple")


@pytest.mark.parametrize("node_id", INVERSION_NODES)
def test_an_empty_latent_to_invert(pack, sd, node_id):
    assert_rejected(pack, node_id, sd, "all zeros", "VAE Encode", latent={"samples": torch.zeros(LATENT_SHAPE)})


def test_several_videos_in_chunks_or_windows(pack, wan):
    latent, scheduler = {"samples": noise(2, 16, 3, 8, 8)}, "simple"
    assert_rejected(
        pack, "BIVDiffInvertImage", wan, "holds 2 videos", "Get Latent From Batch", latent=latent, scheduler=scheduler
    )
    for node_id in VIDEO_NODES:
        inputs = {"context_length": 2, "latent": latent, "scheduler": scheduler}
        assert_rejected(pack, node_id, wan, "holds 2 videos", "context_length to 0", **inputs)


@pytest.mark.parametrize("node_id", VIDEO_NODES)
@pytest.mark.parametrize("overlap", [2, 3])
def test_windows_with_too_much_overlap(pack, sd, node_id, overlap):
    parts = f"cannot overlap by {overlap}", "Set context_overlap below context_length"
    assert_rejected(pack, node_id, sd, *parts, context_length=2, context_overlap=overlap)


def test_core_windows_over_a_dimension_without_frames(pack, sd, wan):
    """ComfyUI would slice the image's height, or nothing."""
    video = {"samples": noise(1, 16, FRAME_COUNT, 8, 8)}
    for node_id, model, latent, dim, expected_dim in (
        *((node_id, sd, None, 2, 0) for node_id in SAMPLING_NODES),
        *((node_id, wan, video, 0, 2) for node_id in VIDEO_NODES),
    ):
        (windowed,) = pack.run("ContextWindowsManual", model=model, **{**CORE_WINDOWS, "dim": dim})
        parts = f"context windows over dimension {dim}", f"Set dim to {expected_dim}"
        assert_rejected(pack, node_id, windowed, *parts, latent=latent, scheduler="simple")


def test_a_model_without_its_required_image(pack):
    editor, inpainter = tiny.sd_model(in_channels=8), tiny.sd_model(in_channels=9)
    assert_rejected(pack, "BIVDiffFrameSampler", editor, "InstructPix2Pix model", "InstructPixToPixConditioning")
    assert_rejected(pack, "BIVDiffFrameSampler", inpainter, "inpainting model", "InpaintModelConditioning")
    masked = {**tiny.make_latent(*LATENT_SHAPE), "noise_mask": torch.ones(1, 1, 64, 64)}
    settings = {"positive": make_prompts()[0], "negative": make_prompts()[1], "latent_image": masked, "steps": 2}
    (out,) = pack.run("BIVDiffFrameSampler", model=inpainter, **settings)
    assert out["samples"].isfinite().all()


# Different frame counts


def conditioning_with_frame_count(what: str, frames: int, pack) -> list:
    """CONDITIONING whose per-frame input `what` has this number of frames."""
    if what == "control hint":
        positive, _ = pack.run(
            "ControlNetApplyAdvanced", positive=make_prompts()[0], negative=make_prompts()[1],
            control_net=tiny.control_net(), image=random(frames, 64, 64, 3, seed=1),
            strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return positive
    return {
        "conditioning mask": tiny.text(seed=1, mask=random(frames, 64, 64, seed=1), mask_strength=1.0),
        "text conditioning": tiny.text(frames, 7, tiny.TEXT_WIDTH, seed=1),
        "inpainting or editing latent": tiny.text(seed=1, concat_latent_image=random(frames, 4, 8, 8, seed=1)),
        "inpainting mask": tiny.text(seed=1, concat_mask=random(frames, 1, 64, 64, seed=1)),
        "reference latent": tiny.text(
            seed=1, reference_latents=[random(n, 4, 8, 8, seed=n) for n in (FRAME_COUNT, frames)]
        ),
    }[what]


PER_FRAME_INPUTS = [
    "control hint", "conditioning mask", "text conditioning", "inpainting or editing latent",
    "inpainting mask", "reference latent",
]  # fmt: skip


@pytest.mark.parametrize("what", PER_FRAME_INPUTS)
@pytest.mark.parametrize("frames", [FRAME_COUNT - 1, FRAME_COUNT + 3])
@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_conditioning_of_another_frame_count(pack, sd, node_id, frames, what):
    positive = conditioning_with_frame_count(what, frames, pack)
    assert_rejected(
        pack, node_id, sd, f"{what} has {frames} frames but the latent has {FRAME_COUNT}", positive=positive
    )


@pytest.mark.parametrize("frames_per_batch", [2, FRAME_COUNT])
def test_conditioning_of_another_frame_count_in_a_core_sampler(pack, sd, frames_per_batch):
    """A Frame Chunks model rejects it too, with one chunk or several."""
    calls = tiny.CallCounter()
    (chunked,) = pack.run("BIVDiffFrameChunks", model=calls.on(sd), frames_per_batch=frames_per_batch)
    with pytest.raises(ValueError, match=f"control hint has 8 frames but the latent has {FRAME_COUNT}"):
        pack.run(
            "KSampler", model=chunked, positive=conditioning_with_frame_count("control hint", 8, pack),
            negative=make_prompts()[1],
            latent_image={"samples": torch.zeros(LATENT_SHAPE)}, seed=0, steps=2, cfg=1.0, sampler_name="euler",
            scheduler="normal", denoise=1.0,
        )  # fmt: skip
    assert calls.rows == []


def test_all_hints_of_a_chain_are_checked(pack, sd):
    """The last control has the right frame count, the previous one does not."""
    conds = (conditioning_with_frame_count("control hint", 8, pack), make_prompts()[1])
    positive, _ = make_controlled_prompts(pack, conds, tiny.control_net(), 1, False, 0.0, 1.0)
    assert_rejected(pack, "BIVDiffFrameSampler", sd, "has 8 frames but the latent has 5", positive=positive)


def test_one_latent_for_many_hints(pack, sd):
    """Empty Latent Image was left at batch_size 1."""
    latent, positive = (
        {"samples": torch.zeros(1, *LATENT_SHAPE[1:])},
        conditioning_with_frame_count("control hint", 8, pack),
    )
    assert_rejected(
        pack, "BIVDiffFrameSampler", sd, "latent has 1", "batch_size in Empty", latent=latent, positive=positive
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_a_hint_that_is_not_rgb(pack, sd, channels):
    positive, _ = pack.run(
        "ControlNetApplyAdvanced", positive=make_prompts()[0], negative=make_prompts()[1],
        control_net=tiny.control_net(), image=random(FRAME_COUNT, 64, 64, channels, seed=1),
        strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    assert_rejected(
        pack, "BIVDiffFrameSampler", sd, f"hint has {channels} channels, expected 3", "Alpha", positive=positive
    )


def test_one_input_for_all_frames_is_accepted(pack, sd):
    """A single hint, mask or text applies to every frame."""
    for what in PER_FRAME_INPUTS[:3]:
        pack.run(
            "BIVDiffInvertImage", model=sd, conditioning=conditioning_with_frame_count(what, 1, pack),
            latent=tiny.make_latent(*LATENT_SHAPE),
            steps=2, scheduler="karras", frames_per_batch=2,
        )  # fmt: skip


# Masks


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_masks_of_another_frame_count(pack, sd, node_id):
    latent = {"samples": noise(*LATENT_SHAPE), "noise_mask": torch.ones(FRAME_COUNT + 1, 1, 64, 64)}
    assert_rejected(
        pack, node_id, sd, f"the mask has {FRAME_COUNT + 1} frames but the latent has {FRAME_COUNT}", latent=latent
    )


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_masks_of_another_shape(pack, sd, node_id):
    latent = {"samples": noise(*LATENT_SHAPE), "noise_mask": torch.ones(FRAME_COUNT, 1, 64, 96)}
    assert_rejected(pack, node_id, sd, "the mask is 96x64 but the latent is 8x8", latent=latent)


# Latents that are not noise, or do not match


@pytest.mark.parametrize("node_id", ["BIVDiffTemporalSmoother", "BIVDiffInvertedNoise", "BIVDiffMixedInversion"])
def test_a_latent_that_was_never_inverted(pack, sd, node_id):
    """A clean latent, also one to which a core node copied the "bivdiff" dict of an inverted one."""
    clean = tiny.make_latent(*LATENT_SHAPE)
    for latent in (clean, {**clean, "bivdiff": {"strength": 1.0}}):
        if node_id != "BIVDiffMixedInversion":
            model = sd if node_id == "BIVDiffTemporalSmoother" else None
            assert_rejected(pack, node_id, model, "this latent does not look like noise", "DDIM Inverse", latent=latent)
        else:
            inverted = {"samples": noise(*LATENT_SHAPE)}
            for image, video in ((latent, inverted), (inverted, latent)):
                assert_rejected(
                    pack, node_id, None, "not look", image_latent=image, video_latent=video, mixing_ratio=0.5
                )


@pytest.fixture(scope="module")
def inverted(pack, sd) -> dict:
    return pack.run(
        "BIVDiffInvertImage", model=sd, conditioning=tiny.text(), latent=tiny.make_latent(*LATENT_SHAPE), steps=4
    )[0]


def test_branches_of_different_kinds(pack, inverted):
    info = inverted["bivdiff"]
    for key, value, what in (
        ("latent_format", "SDXL", "latent space, image SDXL and video SD15"),
        ("family", "flow", "kind of noise, image flow and video diffusion"),
        ("strength", 0.5, "different noise levels, image at sigma 1.62 (strength 0.5) and video at sigma"),
    ):
        other = {**inverted, "bivdiff": {**info, key: value}}
        if key == "strength":
            other["bivdiff"]["sigma"] = sd_sigma(500)
        assert_rejected(
            pack, "BIVDiffMixedInversion", None, what, image_latent=other, video_latent=inverted, mixing_ratio=0.5
        )


@pytest.mark.parametrize(
    ("shape", "described"),
    [
        ((FRAME_COUNT + 1, 4, 8, 8), "6 frames, 8x8 with 4 channels"),
        ((FRAME_COUNT, 4, 8, 16), "5 frames, 16x8 with 4 channels"),
        ((FRAME_COUNT, 16, 8, 8), "5 frames, 8x8 with 16 channels"),
        ((1, 4, FRAME_COUNT, 8, 8), "a clip of 5 latents, 8x8 with 4 channels"),
    ],
)
def test_branches_of_different_shapes(pack, inverted, shape, described):
    inputs = {"image_latent": {"samples": noise(*shape)}, "video_latent": inverted, "mixing_ratio": 0.5}
    assert_rejected(
        pack, "BIVDiffMixedInversion", None, f"image branch is {described}", "branch is 5 frames, 8x8 with 4", **inputs
    )


def test_a_latent_of_another_latent_space_or_noise_family(pack, sd, inverted):
    xl = tiny.sd_model(tiny.TinySDXL, num_classes="sequential", adm_in_channels=2816)
    assert_rejected(pack, "BIVDiffTemporalSmoother", xl, "latent space SD15", "SDXL", latent=inverted)
    flow = tiny.sd_model(tiny.TinySDFlow)
    assert_rejected(
        pack, "BIVDiffTemporalSmoother", flow, "noise diffusion", "flow", latent=inverted, scheduler="simple"
    )


def test_noise_for_a_latent_that_is_not_empty_or_not_its_size(pack, inverted):
    (as_noise,) = pack.run("BIVDiffInvertedNoise", latent=inverted)
    with pytest.raises(ValueError, match="Inverted Latent to Noise: the sampler's latent is not empty"):
        as_noise.generate_noise(tiny.make_latent(*LATENT_SHAPE))
    with pytest.raises(ValueError, match="6 frames, 8x8 with 4 channels, but the noise is 5 frames"):
        as_noise.generate_noise({"samples": torch.zeros(6, 4, 8, 8)})


# Models


class Sampling(comfy.model_sampling.ModelSamplingDiscrete):
    """A schedule for the noise types below."""


DISCRETE_NOISE_TYPES = {
    kind: type(kind, (Sampling, getattr(comfy.model_sampling, kind)), {})
    for kind in ("IMG_TO_IMG", "V_PREDICTION_DDPM", "COSMOS_RFLOW")
    if hasattr(comfy.model_sampling, kind)  # older versions of ComfyUI lack CogVideoX's
}
FLOW_NOISE_TYPES = ["IMG_TO_IMG_FLOW"]
FLOW_NOISE_TYPES += (
    ["noise_scale"] if hasattr(comfy.model_sampling.ModelSamplingDiscreteFlow, "set_noise_scale") else []
)


@pytest.mark.parametrize("kind", [*DISCRETE_NOISE_TYPES, *FLOW_NOISE_TYPES, "sigma_data"])
@pytest.mark.parametrize("node_id", INVERSION_NODES)
def test_models_with_unsupported_noise(pack, sd, node_id, kind):
    model = sd.clone()
    if kind in DISCRETE_NOISE_TYPES:
        sampling = DISCRETE_NOISE_TYPES[kind](None)
    elif kind == "sigma_data":  # EDM's and Playground's
        sampling = sd.get_model_object("model_sampling").__class__(None)
        sampling.sigma_data = 0.5
    else:
        base = comfy.model_sampling.IMG_TO_IMG_FLOW if kind == "IMG_TO_IMG_FLOW" else comfy.model_sampling.CONST
        sampling = type("Flow", (comfy.model_sampling.ModelSamplingDiscreteFlow, base), {})(None)
        if kind == "noise_scale":
            sampling.set_noise_scale(2.0)
    model.add_object_patch("model_sampling", sampling)
    assert_rejected(
        pack, node_id, model, "cannot be inverted", "rectified-flow", latent=tiny.make_latent(*LATENT_SHAPE)
    )


def test_a_video_unet_with_control_or_many_prompts(pack):
    video = tiny.video_model(pack)
    for node_id in VIDEO_NODES:
        assert_rejected(
            pack,
            node_id,
            video,
            "does not support ControlNets",
            positive=conditioning_with_frame_count("control hint", FRAME_COUNT, pack),
        )
        assert_rejected(
            pack,
            node_id,
            video,
            "one prompt",
            positive=conditioning_with_frame_count("text conditioning", FRAME_COUNT, pack),
        )


# Grids


@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_flow_schedulers_that_do_not_reach_full_noise(pack, wan, node_id):
    latent = {"samples": noise(1, 16, 3, 8, 8)}
    assert_rejected(
        pack, node_id, wan, "reaches only sigma 0.9", "simple, normal or beta", latent=latent, scheduler="ddim_uniform"
    )


@pytest.mark.parametrize(
    ("node_id", "inputs", "part"),
    [
        ("BIVDiffInvertImage", {"solver": "fireflow"}, "solver fireflow. Set solver to ddim"),
        ("BIVDiffInvertVideo", {"solver": "uni_inv"}, "solver uni_inv. Set solver to ddim"),
        ("BIVDiffInvertVideo", {"strength": 0.5}, "strength 1"),
        ("BIVDiffInvertImage", {"steps": 1000}, "at most 999 steps"),
        ("BIVDiffTemporalSmoother", {"steps": 1000}, "at most 999 steps"),
        ("BIVDiffTemporalSmoother", {"sampler_name": "heun"}, "with heun. Set sampler_name to ddim"),
        ("BIVDiffTemporalSmoother", {"strength": 0.5}, "strength 1"),
    ],
)
def test_settings_that_the_reference_grid_does_not_support(pack, sd, node_id, inputs, part):
    assert_rejected(pack, node_id, sd, "grid reference", part, grid="reference", **inputs)


@pytest.mark.parametrize("node_id", VIDEO_NODES)
def test_models_that_the_reference_grid_does_not_support(pack, wan, node_id):
    velocity = tiny.sd_model(tiny.TinySDVelocity)
    assert_rejected(pack, node_id, velocity, "an eps model", "Set grid to matched", grid="reference")
    (distilled,) = pack.run("ModelSamplingDiscrete", model=tiny.sd_model(), sampling="lcm", zsnr=False)
    assert_rejected(pack, node_id, distilled, "with 1000 timesteps", "Set grid to matched", grid="reference")
    latent = {"samples": noise(1, 16, 3, 8, 8)}
    assert_rejected(
        pack, node_id, wan, "an eps model", "Set grid to matched", grid="reference", latent=latent, scheduler="simple"
    )


def test_denoise_that_leaves_no_steps(pack, sd):
    assert_rejected(pack, "BIVDiffFrameSampler", sd, "denoise 0.0 leaves no steps", denoise=0.0)


# ComfyUI's validation


def validation_errors(pack, node_id: str, **inputs) -> list[dict]:
    """ComfyUI's validation errors for one node in a graph whose links have the right types."""
    import execution

    links = {"LATENT": ["latent", 0], "MODEL": ["model", 0], "CONDITIONING": ["text", 0]}
    given = {
        name: links[kind] if kind in links else options[0].get("default")
        for name, (kind, *options) in pack.classes[node_id].INPUT_TYPES()["required"].items()
    }
    graph = {
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 4}},
        "model": {"class_type": "UNETLoader", "inputs": {"unet_name": "none", "weight_dtype": "default"}},
        "clip": {"class_type": "CLIPLoader", "inputs": {"clip_name": "none", "type": "stable_diffusion"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["clip", 0]}},
        "ratio": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.5}},
        "word": {"class_type": "BIVDiffModeList", "inputs": {"modes": "linear"}},
        "node": {"class_type": node_id, "inputs": {**given, **inputs}},
        "out": {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}},
    }
    _, _, _, errors = asyncio.run(execution.validate_prompt("test", graph, None))
    return errors.get("node", {"errors": []})["errors"]


@pytest.mark.parametrize(
    ("node_id", "inputs", "kind"),
    [
        *((node_id, {"steps": 0}, "value_smaller_than_min") for node_id in SAMPLING_NODES),
        ("BIVDiffInvertImage", {"strength": 0.0}, "value_smaller_than_min"),
        ("BIVDiffInvertImage", {"strength": 1.5}, "value_bigger_than_max"),
        ("BIVDiffInvertImage", {"solver": "magic"}, "value_not_in_list"),
        ("BIVDiffTemporalSmoother", {"sampler_name": "euler_ancestral"}, "value_not_in_list"),
        ("BIVDiffFrameSampler", {"frames_per_batch": -1}, "value_smaller_than_min"),
    ],
)
def test_comfyui_rejects_values_out_of_range(pack, node_id, inputs, kind):
    errors = validation_errors(pack, node_id, **inputs)
    assert [e["type"] for e in errors] == [kind]
    assert next(iter(inputs)) in errors[0]["details"]
    assert validation_errors(pack, node_id) == []


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ({"mixing_ratio": -0.1}, "must lie between 0"),
        ({"mixing_ratio": 1.5}, "must lie between 0"),
        ({"task": "magic"}, "task magic is not one of"),
        ({"task": "controlnet", "mixing_ratio": ["ratio", 0]}, "Set task to custom"),
    ],
)
def test_an_invalid_mixing_ratio(pack, inputs, part):
    """A task preset together with a linked ratio is an error too."""
    errors = validation_errors(pack, "BIVDiffMixedInversion", **inputs)
    assert errors and all(e["type"] == "custom_validation_failed" and part in e["details"] for e in errors)
    for valid in ({"mixing_ratio": ["ratio", 0]}, {"task": "controlnet"}, {"mixing_ratio": 1.0}):
        assert validation_errors(pack, "BIVDiffMixedInversion", **valid) == []


# NaN


class NaNFrame(tiny.CallCounter):
    """From the `at`-th call on, the network's output for the frame `row` of the call is NaN."""

    def __init__(self, at: int, row: int):
        super().__init__()
        self.at, self.row = at, row

    def __call__(self, apply_model, args):
        out = super().__call__(apply_model, args).clone()
        if len(self.rows) >= self.at:
            out.select(2 if out.ndim == 5 else 0, self.row).fill_(float("nan"))
        return out


@pytest.mark.parametrize(
    ("node_id", "inputs", "at", "step"),
    [
        ("BIVDiffInvertImage", {"frames_per_batch": FRAME_COUNT, "solver": "ddim"}, 3, 3),
        ("BIVDiffInvertImage", {"frames_per_batch": FRAME_COUNT, "solver": "fixed_point"}, 5, 2),
        ("BIVDiffInvertVideo", {"solver": "ddim"}, 1, 1),
        ("BIVDiffTemporalSmoother", {}, 2, 2),
        ("BIVDiffFrameSampler", {"sampler_name": "euler"}, 2, 2),
    ],
)
def test_a_frame_that_is_not_finite_is_named(pack, sd, node_id, inputs, at, step):
    """The run stops at the step in which it occurs."""
    broken = NaNFrame(at, row=3)
    latent = tiny.make_latent(*LATENT_SHAPE)
    if node_id == "BIVDiffTemporalSmoother":
        latent = {"samples": noise(*LATENT_SHAPE)}
    with pytest.raises(ValueError, match=re.escape(f"{NAMES[node_id]}: frame 3 is not finite at step {step}")):
        pack.run(node_id, **make_inputs(node_id, broken.on(sd), latent), **inputs)
    per_step = 3 if inputs.get("solver") == "fixed_point" else 1
    assert len(broken.rows) == step * per_step


def test_a_frame_that_is_not_finite_has_its_number_in_the_clip(pack, sd):
    """Row 0 of the third chunk of two frames is frame 4."""

    class ThirdChunk(NaNFrame):
        def __call__(self, apply_model, args):
            out = tiny.CallCounter.__call__(self, apply_model, args).clone()
            if len(self.rows) % 3 == 0:
                out[0] = float("nan")
            return out

    with pytest.raises(ValueError, match="frame 4 is not finite at step 1"):
        pack.run(
            "BIVDiffInvertImage", model=ThirdChunk(0, 0).on(sd), conditioning=tiny.text(),
            latent=tiny.make_latent(*LATENT_SHAPE), steps=4, frames_per_batch=2,
        )  # fmt: skip


def test_a_time_slice_that_is_not_finite_is_named(pack, wan):
    with pytest.raises(ValueError, match=r"DDIM Inverse \(Video\): frame 2 is not finite at step 2"):
        pack.run(
            "BIVDiffInvertVideo", model=NaNFrame(2, row=2).on(wan), conditioning=tiny.text(),
            latent=tiny.make_latent(1, 16, 4, 8, 8), steps=4, scheduler="simple", solver="ddim",
        )  # fmt: skip


@pytest.mark.parametrize("node_id", [*SAMPLING_NODES, "BIVDiffInvertedNoise", "BIVDiffMixedInversion"])
def test_a_frame_of_the_latent_that_is_not_finite_is_named(pack, sd, node_id):
    samples = noise(*LATENT_SHAPE)
    samples[3, 0, 0, 0] = float("nan")
    if node_id != "BIVDiffMixedInversion":
        model = None if node_id == "BIVDiffInvertedNoise" else sd
        return assert_rejected(pack, node_id, model, "frame 3 is not finite (NaN", latent={"samples": samples})
    branches = {"image_latent": {"samples": samples}, "video_latent": {"samples": noise(*LATENT_SHAPE)}}
    assert_rejected(pack, node_id, None, "frame 3 is not finite (NaN", mixing_ratio=0.5, **branches)


def test_a_frame_that_becomes_nan_after_the_last_callback_is_named(pack, sd):
    """sa_solver_pece calls back before its corrector's model call. With 3 steps that is the fifth call."""
    broken = NaNFrame(5, row=3)
    with pytest.raises(ValueError, match=r"Frame-wise Image Sampler: frame 3 is not finite \(NaN"):
        pack.run(
            "BIVDiffFrameSampler", model=broken.on(sd), positive=tiny.text(), negative=tiny.text(), steps=3,
            cfg=1.0, sampler_name="sa_solver_pece", scheduler="normal", latent_image=tiny.make_latent(*LATENT_SHAPE),
        )  # fmt: skip
    assert len(broken.rows) == 5


def test_linked_words_that_are_no_choice(pack, schemas):
    """ComfyUI does not validate linked words. Every control with choices does, before it does anything else."""
    controls = [
        (node, item.id) for node, schema in schemas.items() for item in schema.inputs if item.io_type == "COMBO"
    ]
    assert len(controls) > 20
    for node_id, name in controls:
        error = FileNotFoundError if name in ("latent", "name") else ValueError
        with pytest.raises(error, match=f"^{re.escape(schemas[node_id].display_name)}: .*magic"):
            pack.run(node_id, **{name: "magic"})


@pytest.mark.parametrize(
    ("node_id", "name", "word"),
    [
        *((node_id, "scheduler", "beta57") for node_id in SAMPLING_NODES),
        ("BIVDiffFrameSampler", "sampler_name", "res_2s"),
        ("BIVDiffTemporalSmoother", "sampler_name", "res_2s"),
    ],
)
def test_linked_words_of_a_pack_that_is_not_installed(pack, sd, node_id, name, word):
    assert_rejected(pack, node_id, sd, f"{name} {word} is not one of", "install the pack", **{name: word})


def test_words_that_another_pack_adds_are_choices(pack, sd, monkeypatch):
    """Also if that pack is loaded later."""
    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "beta57", comfy.samplers.SCHEDULER_HANDLERS["beta"])
    monkeypatch.setattr(comfy.samplers, "SCHEDULER_NAMES", [*comfy.samplers.SCHEDULER_NAMES, "beta57"])
    inputs = make_inputs("BIVDiffInvertImage", sd, tiny.make_latent(*LATENT_SHAPE))
    pack.run("BIVDiffInvertImage", **{**inputs, "scheduler": "beta57"})


@pytest.mark.parametrize("node_id", ["BIVDiffMixedInversion"])
def test_a_linked_task(pack, node_id):
    assert validation_errors(pack, node_id, task=["word", 0]) == []


@pytest.mark.parametrize("node_id", SAMPLING_NODES)
def test_gligen_boxes_of_single_frames(pack, sd, node_id):
    """From KJNodes (1.5.0, 2026-08). ComfyUI passes empty boxes to the model instead."""
    boxes = [[(torch.zeros(1, tiny.TEXT_WIDTH), 4, 4, i, 0)] for i in range(FRAME_COUNT)]
    positive = tiny.text(seed=1, gligen=("position_batched", None, boxes))
    assert_rejected(pack, node_id, sd, "GLIGEN boxes that change from frame to frame", positive=positive)
