"""Core's MultiGPU CFG Split under the pack's chunks, on two stand-in devices, cpu and cpu:1: one memory, two names."""

import comfy.model_management
import pytest
import tiny_models as tiny
import torch
from analytic import rms
from test_chunks import random
from torch import Tensor

from bivdiff_core.host.memory import frames_that_fit

pytestmark = tiny.needs_multigpu

F = 6
DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]
KSAMPLER = {"seed": 3, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


class OutOfMemory:
    """Counts the rows of every call by device; on one device a call of more rows than fit runs out of memory."""

    def __init__(self, device: torch.device | None = None, fit: int = 100):
        self.device, self.fit = device, fit
        self.calls: list[tuple[str, int]] = []

    def on(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(self)
        return model

    def __call__(self, apply_model, args: dict) -> Tensor:
        device = args["c"]["transformer_options"]["multigpu_thread_device"]
        self.calls.append((device, len(args["input"])))
        if device == self.device and len(args["input"]) > self.fit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return apply_model(args["input"], args["timestep"], **args["c"])


@pytest.fixture(scope="module")
def demo(pack):
    models = pack.run("BIVDiffDemoModels", variant="base")
    positive, negative = (pack.run("CLIPTextEncode", clip=models[2], text=t)[0] for t in ("a blue square", ""))
    prompts = pack.run(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=models[4],
        image=random(F, 64, 64, 3, seed=1).round(), strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    return models[0], *prompts


@pytest.fixture
def split(pack, monkeypatch):
    """A MODEL on both devices: positive prompts on one, negative ones on the other."""
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES)
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [entry for entry in loaded if entry.model is not None]  # core's node fails on one that is gone
    return lambda model: pack.run("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]


def sample(pack, model, positive: list, negative: list, frames_per_batch: int = F) -> Tensor:
    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=frames_per_batch)
    latent = {"samples": torch.zeros(F, 4, 8, 8)}
    given = {"positive": positive, "negative": negative, "latent_image": latent, **KSAMPLER}
    return pack.run("KSampler", model=chunked, **given)[0]["samples"]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("fit", [3, 1])
def test_running_out_of_memory_halves_and_goes_on(pack, demo, split, device, fit):
    """On whichever device; the other's results of the call that failed are nobody's."""
    model, *prompts = demo
    expected = sample(pack, model, *prompts)
    memory = OutOfMemory(device, fit)
    out = sample(pack, split(memory.on(model)), *prompts)
    assert rms(out - expected) < 2e-5 * rms(expected)
    rows = [rows for at, rows in memory.calls if at == device]
    assert rows[0] == F and max(rows[-4:]) <= fit
    assert {at for at, _ in memory.calls} == set(DEVICES)


def test_what_never_fits_ends_with_the_devices_own_error(pack, demo, split):
    model, *prompts = demo
    with pytest.raises(torch.OutOfMemoryError):
        sample(pack, split(OutOfMemory(DEVICES[1], 0).on(model)), *prompts)
    out = sample(pack, split(OutOfMemory().on(model)), *prompts, frames_per_batch=2)
    assert rms(out - sample(pack, model, *prompts)) < 2e-5 * rms(out)


def test_the_fuller_device_says_how_many_frames_fit(demo, split, monkeypatch):
    model, *_ = demo
    models = model, split(model)
    copies = [model, *models[1].get_additional_models_with_key("multigpu")]
    frame = 1.5 * model.model.memory_required([2, 4, 8, 8])
    weights = [copy.model_size() - copy.loaded_size() for copy in copies]
    room = {copy.load_device: size + n * frame for copy, size, n in zip(copies, weights, (4.5, 2.5), strict=True)}
    monkeypatch.setattr(comfy.model_management, "get_free_memory", room.get)
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])
    conds = {"positive": [], "negative": []}
    fit = [frames_that_fit(one, (F, 4, 8, 8), conds) for one in models]
    assert fit == [4, 2]
