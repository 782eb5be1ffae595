"""Per-frame inputs are sliced along their frame axis, never along another axis of the same size."""

import comfy.conds
import pytest
import torch
from comfy.context_windows import IndexListContextWindow
from fixtures import tiny_models as tiny

from bivdiff_core.host.compat.control_chains import describe_window
from bivdiff_core.host.control_hints import slice_hints, slice_references

FRAMES = 6
WINDOW = [1, 2, 4]
DEVICE = torch.device("cpu")
BATCH, TIME = 0, 2
"""Frame axis of a clip: BATCH for `[F, C, H, W]` and `[F, C, 1, h, w]`, TIME for `[1, C, T, h, w]`."""


def arange_of_shape(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


VALUES = {
    "frames in the batch": (BATCH, arange_of_shape(FRAMES, 4, FRAMES, FRAMES), 0),
    "one for all": (BATCH, arange_of_shape(1, 4, FRAMES, FRAMES), None),
    "one-frame clips": (BATCH, arange_of_shape(FRAMES, 4, 1, FRAMES, FRAMES), 0),
    "one-frame clip for all": (BATCH, arange_of_shape(1, 4, 1, FRAMES, FRAMES), None),
    "a clip for every frame": (BATCH, arange_of_shape(1, 4, FRAMES, 8, 8), None),
    "a clip": (TIME, arange_of_shape(1, 4, FRAMES, FRAMES, FRAMES), 2),
    "a shorter clip": (TIME, arange_of_shape(1, 4, 2, FRAMES, FRAMES), None),
    "an image whose height equals the frame count": (TIME, arange_of_shape(1, 4, FRAMES, FRAMES), None),
    "an image per frame": (TIME, arange_of_shape(FRAMES, 4, 8, 8), 0),
}
"""The clip's frame axis, a per-frame input, and the axis of it that is sliced, or None."""


def expected(value: torch.Tensor, axis: int | None) -> torch.Tensor:
    return value if axis is None else value.index_select(axis, torch.tensor(WINDOW))


@pytest.mark.parametrize(("dim", "value", "axis"), VALUES.values(), ids=VALUES)
def test_reference_latents(dim, value, axis):
    clip = torch.zeros(FRAMES, 4, 8, 8) if dim == BATCH else torch.zeros(1, 4, FRAMES, 8, 8)
    window = IndexListContextWindow(WINDOW, dim=dim, total_frames=FRAMES)
    sliced = slice_references("ref_latents", comfy.conds.CONDList([value, value]), window, clip, DEVICE, {})
    assert all(torch.equal(t, expected(value, axis)) for t in sliced.cond)


@pytest.mark.parametrize(("dim", "value", "axis"), VALUES.values(), ids=VALUES)
def test_control_hints(dim, value, axis):
    control = tiny.control_net()
    control.cond_hint_original, control.extra_concat_orig = value, [value]
    window = IndexListContextWindow(WINDOW, dim=dim, total_frames=FRAMES)
    with slice_hints(window, describe_window(WINDOW, FRAMES), [control], {}):
        assert torch.equal(control.cond_hint_original, expected(value, axis))
        assert torch.equal(control.extra_concat_orig[0], expected(value, axis))
    assert control.cond_hint_original is value


def test_wan_gets_its_whole_reference_image_in_every_window(pack):
    """Also if the image has as many rows as the clip has latent frames."""
    references = []

    class Recorder(tiny.CallCounter):
        def __call__(self, apply_model, args):
            references.append(args["c"]["reference_latent"])
            return super().__call__(apply_model, args)

    model, text = tiny.wan_model(in_dim_ref_conv=16), tiny.text()
    (text,) = pack.run("ReferenceLatent", conditioning=text, latent=tiny.make_latent(1, 16, 1, 8, 8))
    inputs = {"conditioning": text, "latent": tiny.make_latent(1, 16, 8, 8, 8), "steps": 2, "scheduler": "simple"}
    pack.run("BIVDiffInvertVideo", model=Recorder().on(model), context_length=13, context_overlap=8, **inputs)
    assert len(references) > 2 and all(torch.equal(image, references[0]) for image in references)
    assert references[0].shape == (1, 16, 8, 8)
