"""Borrow Control against its formula, with the predictions of ComfyUI's guiders for each model."""

import comfy.hooks
import comfy.model_management
import comfy.samplers
import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.gaussian_mixture import assert_near
from torch import Tensor

pytestmark = pytest.mark.floats

FRAMES = 6
WEIGHT = 2.0
CONTROLS = ("control_net", "t2i_adapter", "lora", "legacy", "area", "instruct", "patched")


@pytest.fixture(scope="module")
def video(pack):
    return tiny.video_model(pack)


@pytest.fixture(scope="module")
def image():
    return tiny.sd_model()


def hints(frames: int = FRAMES) -> Tensor:
    return torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(9))


def apply_control(pack, control_net, frames: int = FRAMES):
    return pack.run(
        "ControlNetApplyAdvanced", positive=tiny.text(seed=1), negative=tiny.text(seed=2), control_net=control_net,
        image=hints(frames), strength=1.0, start_percent=0.0, end_percent=1.0,
    )[0]  # fmt: skip


def lora_hook(pack, model):
    """CONDITIONING with a LoRA as a hook."""
    keys = [key for key in model.model_state_dict() if key.endswith("attn2.to_k.weight")]
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    generator = torch.Generator().manual_seed(3)
    hook.weights = {
        key: ("diff", (torch.randn(model.get_model_object(key).shape, generator=generator),)) for key in keys
    }
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return pack.run(
        "ConditioningSetProperties", cond_NEW=tiny.text(seed=1), strength=1.0, set_cond_area="default", hooks=group
    )[0]


def make_control(pack, kind: str, image, frames: int = FRAMES) -> tuple:
    """The prompt with control, and the MODEL that has the control; None if it is the image MODEL."""
    if kind == "control_net":
        return apply_control(pack, tiny.control_net(), frames), None
    if kind == "t2i_adapter":
        return apply_control(pack, tiny.t2i_adapter(), frames), None
    if kind == "lora":
        return lora_hook(pack, image), None
    if kind == "legacy":
        return pack.run(
            "ControlNetApply", conditioning=tiny.text(seed=1), control_net=tiny.control_net(), image=hints(frames),
            strength=1.0,
        )[0], None  # fmt: skip
    if kind == "area":
        (part,) = pack.run(
            "ConditioningSetArea", conditioning=apply_control(pack, tiny.control_net(), frames), width=32, height=64,
            x=32, y=0, strength=1.0,
        )  # fmt: skip
        return tiny.text(seed=1) + part, None
    if kind == "instruct":
        pixels = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(8))
        return tiny.text(seed=1, concat_latent_image=pixels), tiny.sd_model(in_channels=8)
    patched = image.clone()
    patched.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k, 2 * v))
    return tiny.text(seed=1), patched


def borrow(pack, video, image, with_control, controlled=None, **options):
    inputs = {"weight": WEIGHT, "start_percent": 0.0, "end_percent": 1.0, "frames_per_batch": 0, **options}
    return pack.run(
        "BIVDiffBorrowControl", model=video, image_model=image, with_control=with_control,
        without_control=tiny.text(seed=1), controlled_model=controlled, **inputs,
    )[0]  # fmt: skip


def sample(
    pack, model, prompt=None, steps: int = 1, shape: tuple = (FRAMES, 4, 8, 8), scheduler="normal", noise=None
) -> Tensor:
    """Denoise noise without guidance. A single step gives the prediction at the model's sigma_max."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny.text(seed=3) if prompt is None else prompt, tiny.text(seed=4))
    guider.set_cfg(1.0)
    (sampler,) = pack.run("KSamplerSelect", sampler_name="euler")
    (sigmas,) = pack.run("BasicScheduler", model=model, scheduler=scheduler, steps=steps, denoise=1.0)
    out, _ = pack.run(
        "SamplerCustomAdvanced", noise=noise or pack.run("BIVDiffFrameNoise", seed=4)[0], guider=guider,
        sampler=sampler, sigmas=sigmas, latent_image={"samples": torch.zeros(shape)},
    )  # fmt: skip
    return out["samples"]


def predict_by_formula(pack, video, image, with_control, controlled=None) -> Tensor:
    with_it, without = sample(pack, controlled or image, with_control), sample(pack, image, tiny.text(seed=1))
    assert (with_it - without).abs().mean() > 0.01 * without.abs().mean(), "the control has no effect"
    return sample(pack, video) + WEIGHT * (with_it - without)


@pytest.mark.parametrize("kind", CONTROLS)
@pytest.mark.parametrize("frames_per_batch", [0, 4])
def test_a_step_equals_the_formula(pack, video, image, kind, frames_per_batch):
    with_control, controlled = make_control(pack, kind, image)
    expected = predict_by_formula(pack, video, image, with_control, controlled)
    model = borrow(pack, video, image, with_control, controlled, frames_per_batch=frames_per_batch)
    assert_near(sample(pack, model), expected, 1e-6)
    assert_near(sample(pack, model), expected, 1e-6)  # hints and weights are restored


def test_windows_of_the_video_model(pack, image):
    """The control is added to the whole clip after the windows are joined."""
    with_control, _ = make_control(pack, "control_net", image)
    (windowed,) = pack.run(
        "ContextWindowsManual", model=tiny.video_model(pack), context_length=4, context_overlap=2,
        context_schedule="standard_static", context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0,
        freenoise=False, **tiny.NO_ANCHOR_FRAME,
    )  # fmt: skip
    expected = predict_by_formula(pack, windowed, image, with_control)
    assert_near(sample(pack, borrow(pack, windowed, image, with_control)), expected, 1e-6)


def test_a_video_model_with_a_time_axis_takes_each_latent_frame_as_a_picture(pack):
    """Qwen-Image lends to Wan; its control here is a patch."""
    wan, qwen = tiny.FlowVideo("wan"), tiny.qwen_model()
    controlled = qwen.clone()
    controlled.set_model_unet_function_wrapper(
        lambda apply_model, args: 0.5 * apply_model(args["input"], args["timestep"], **args["c"])
    )
    (noise,) = pack.run("BIVDiffFrameNoise", seed=4)
    clip = {"shape": (1, 16, 3, 8, 8), "scheduler": "simple"}
    pictures = noise.generate_noise({"samples": torch.zeros(clip["shape"])}).transpose(0, 2)

    def predict(model) -> Tensor:
        """The predictions at sigma 1, as a clip."""
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": tiny.text(seed=1)})
        euler = comfy.samplers.sampler_object("euler")
        return guider.sample(pictures, torch.zeros_like(pictures), euler, torch.tensor([1.0, 0.0])).transpose(0, 2)

    expected = sample(pack, wan.model, wan.text(), **clip) + WEIGHT * (predict(controlled) - predict(qwen))
    model = borrow(pack, wan.model, qwen, tiny.text(seed=1), controlled)
    assert_near(sample(pack, model, wan.text(), **clip), expected, 2e-5)


def test_weight_0_is_the_video_model(pack, video, image):
    with_control, _ = make_control(pack, "control_net", image)
    assert borrow(pack, video, image, with_control, weight=0.0) is video


def test_the_image_model_runs_twice_a_step_in_its_part_of_the_steps(pack, video):
    calls = tiny.CallCounter()
    image = calls.on(tiny.sd_model())
    with_control, _ = make_control(pack, "control_net", image)
    sampling = video.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 8)[:-1]
    low, high = (sampling.percent_to_sigma(percent) for percent in (0.75, 0.25))
    active = int(((low <= sigmas) & (sigmas <= high)).sum())
    assert 0 < active < 8
    sample(pack, borrow(pack, video, image, with_control, start_percent=0.25, end_percent=0.75), steps=8)
    assert len(calls.sigmas) == 2 * active and all(low <= sigma <= high for sigma in calls.sigmas)


def test_nothing_is_added_above_the_range_of_the_image_model(pack, image):
    video = tiny.as_video_model(tiny.sd_model(tiny.AnimateDiffSchedule))
    model = borrow(pack, video, image, make_control(pack, "control_net", image)[0])
    assert torch.equal(sample(pack, model), sample(pack, video))
    assert not torch.equal(sample(pack, model, steps=2), sample(pack, video, steps=2))


def test_comfyui_loads_image_model_and_control_net_with_the_video_model(pack, video, image):
    control_net = tiny.control_net()
    model = borrow(pack, video, image, apply_control(pack, control_net))
    networks = [other.model for other in model.get_nested_additional_models()]
    assert image.model in networks and control_net.control_model in networks
    instruct = tiny.sd_model(in_channels=8)
    again = borrow(pack, model, image, make_control(pack, "instruct", image)[0], instruct)
    networks = [other.model for other in again.get_nested_additional_models()]
    assert networks.count(image.model) == 1 and instruct.model in networks


def test_two_controls_add_up(pack, video, image):
    first, _ = make_control(pack, "control_net", image)
    second, controlled = make_control(pack, "instruct", image)
    one = borrow(pack, video, image, first)
    both = borrow(pack, one, image, second, controlled)
    expected = sample(pack, one) + sample(pack, borrow(pack, video, image, second, controlled)) - sample(pack, video)
    assert_near(sample(pack, both), expected, 1e-6)


def test_an_inversion_goes_without_it(pack, video, image, caplog):
    inputs = {"conditioning": tiny.text(seed=3), "latent": tiny.make_latent(FRAMES, 4, 8, 8), "steps": 2}
    (expected,) = pack.run("BIVDiffInvertVideo", model=video, **inputs)
    model = borrow(pack, video, image, make_control(pack, "control_net", image)[0])
    (found,) = pack.run("BIVDiffInvertVideo", model=model, **inputs)
    assert torch.equal(found["samples"], expected["samples"])
    assert "Switched off for the inversion: Borrow Control" in caplog.text


def test_the_smoother_equals_comfyui_sampling(pack, video, image):
    model = borrow(pack, video, image, make_control(pack, "control_net", image)[0])
    inverted = {"samples": torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(4))}
    (smoothed,) = pack.run(
        "BIVDiffTemporalSmoother", model=model, positive=tiny.text(seed=3), negative=tiny.text(seed=4), latent=inverted,
        cfg=1.0, steps=3, scheduler="normal",
    )  # fmt: skip
    (noise,) = pack.run("BIVDiffInvertedNoise", latent=inverted)
    assert_near(smoothed["samples"], sample(pack, model, steps=3, noise=noise), 1e-6)


def test_a_cancelled_run_leaves_all_models_usable(pack, video, image):
    with_control, _ = make_control(pack, "lora", image)
    model = borrow(pack, video, image, with_control)
    expected = sample(pack, model, steps=2)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(pack, model, steps=2)
    assert torch.equal(sample(pack, model, steps=2), expected)


def test_what_cannot_be_borrowed_is_rejected(pack, video, image):
    with_control, _ = make_control(pack, "control_net", image)
    with pytest.raises(ValueError, match=r"Borrow Control: the image model's latent space is SDXL"):
        borrow(pack, video, tiny.sd_model(tiny.TinySDXL), with_control)
    with pytest.raises(ValueError, match="got an image model, expected a video model"):
        borrow(pack, image, image, with_control)
    with pytest.raises(ValueError, match="got a video model"):
        borrow(pack, video, video, with_control, frames_per_batch=2)
    with pytest.raises(ValueError, match="different LoRAs"):
        weights = {"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))}
        other = image.clone()
        other.add_patches(weights)
        borrow(pack, video, image, with_control, other)
    prompt = tiny.text(seed=1)
    with pytest.raises(ValueError, match="there is no control to borrow"):
        pack.run(
            "BIVDiffBorrowControl", model=video, image_model=image, with_control=prompt, without_control=prompt,
            weight=1.0, start_percent=0.0, end_percent=1.0, frames_per_batch=0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="InstructPix2Pix model works on an image, but got none"):
        borrow(pack, video, image, tiny.text(seed=1), tiny.sd_model(in_channels=8))
    with pytest.raises(ValueError, match=f"control hint has 4 frames but the latent has {FRAMES}"):
        sample(pack, borrow(pack, video, image, make_control(pack, "control_net", image, 4)[0]))
    (late,) = pack.run("ConditioningSetTimestepRange", conditioning=with_control, start=0.5, end=1.0)
    with pytest.raises(ValueError, match="no with_control prompt is active"):
        sample(pack, borrow(pack, video, image, late))
