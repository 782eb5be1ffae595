"""What goes with frames is sliced along its frame axis, never along a height that happens to equal their number."""

import comfy.conds
import pytest
import torch
from comfy.context_windows import IndexListContextWindow
from fixtures import tiny_models as tiny

from bivdiff_core.host.compat.control_chains import describe_window
from bivdiff_core.host.control_hints import slice_hints, slice_references

F = 6
WINDOW = [1, 2, 4]
DEVICE = torch.device("cpu")
BATCH, TIME = 0, 2
"""Where a clip has its frames: `[F, C, H, W]` or `[F, C, 1, h, w]`, and `[1, C, T, h, w]`."""


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


VALUES = {
    "frames in the batch": (BATCH, numbered(F, 4, F, F), 0),
    "one for all": (BATCH, numbered(1, 4, F, F), None),
    "one-frame clips": (BATCH, numbered(F, 4, 1, F, F), 0),
    "one-frame clip for all": (BATCH, numbered(1, 4, 1, F, F), None),
    "a clip for every frame": (BATCH, numbered(1, 4, F, 8, 8), None),
    "a clip": (TIME, numbered(1, 4, F, F, F), 2),
    "a shorter clip": (TIME, numbered(1, 4, 2, F, F), None),
    "a picture as high as the clip is long": (TIME, numbered(1, 4, F, F), None),
    "a picture per frame": (TIME, numbered(F, 4, 8, 8), 0),
}
"""Where the clip has its frames, what goes with it, and the axis that is sliced, or None."""


def expected(value: torch.Tensor, axis: int | None) -> torch.Tensor:
    return value if axis is None else value.index_select(axis, torch.tensor(WINDOW))


@pytest.mark.parametrize(("dim", "value", "axis"), VALUES.values(), ids=VALUES)
def test_reference_latents(dim, value, axis):
    clip = torch.zeros(F, 4, 8, 8) if dim == BATCH else torch.zeros(1, 4, F, 8, 8)
    window = IndexListContextWindow(WINDOW, dim=dim, total_frames=F)
    sliced = slice_references("ref_latents", comfy.conds.CONDList([value, value]), window, clip, DEVICE, {})
    assert all(torch.equal(t, expected(value, axis)) for t in sliced.cond)


@pytest.mark.parametrize(("dim", "value", "axis"), VALUES.values(), ids=VALUES)
def test_control_hints(dim, value, axis):
    control = tiny.control_net()
    control.cond_hint_original, control.extra_concat_orig = value, [value]
    window = IndexListContextWindow(WINDOW, dim=dim, total_frames=F)
    with slice_hints(window, describe_window(WINDOW, F), [control], {}):
        assert torch.equal(control.cond_hint_original, expected(value, axis))
        assert torch.equal(control.extra_concat_orig[0], expected(value, axis))
    assert control.cond_hint_original is value


def test_wan_sees_its_whole_reference_picture_in_every_window(pack):
    """One that has as many rows as the clip has latent frames."""
    seen = []

    class Looks(tiny.CallCounter):
        def __call__(self, apply_model, args):
            seen.append(args["c"]["reference_latent"])
            return super().__call__(apply_model, args)

    model, text = tiny.wan_model(in_dim_ref_conv=16), tiny.text()
    (text,) = pack.run("ReferenceLatent", conditioning=text, latent=tiny.make_latent(1, 16, 1, 8, 8))
    given = {"conditioning": text, "latent": tiny.make_latent(1, 16, 8, 8, 8), "steps": 2, "scheduler": "simple"}
    pack.run("BIVDiffInvertVideo", model=Looks().on(model), context_length=4, context_overlap=2, **given)
    assert len(seen) > 2 and all(torch.equal(picture, seen[0]) for picture in seen)
    assert seen[0].shape == (1, 16, 8, 8)
