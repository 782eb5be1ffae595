"""The video branch on the other families of video models, as networks of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

WINDOWS = {"context_length": 2, "context_overlap": 1}


def run_families(run, folder: Path) -> None:
    """Flow models with 5-D latents, AnimateDiff, VidRD, and a model from a folder, which is written below `folder`.

    Args:
        run: a `chain.Run`.
    """
    import folder_paths

    from tools.standins import animatediff
    from tools.standins import tiny_models as tiny
    from tools.standins.video_folders import PROMPT, write_folder

    with weights_at_once():
        flows = [tiny.FlowVideo(kind) for kind in tiny.FlowVideo.KINDS]
        wan_vae, image, vidrd = tiny.wan_vae(), tiny.sd_model(), tiny.vidrd_model(run.pack)
    images = run.nudge(torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(3)))

    def nudged(latent: dict) -> dict:
        return {"samples": run.nudge(latent["samples"])}

    def read(text: list) -> list:
        return [[run.nudge(text[0][0]), text[0][1]]]

    for video in flows:
        clip, texts = nudged(video.latent()), (read(video.text()), read(video.text(seed=2)))
        frames = {"samples": clip["samples"].transpose(0, 2)}
        video_branch(run, video.kind, (video.model, video.model), texts, (frames, clip), "simple")
    code(run, "wan", wan_vae, images)

    frames, texts = nudged(tiny.frames(3, 4, 8, 8)), (read(tiny.text(seed=1)), read(tiny.text(seed=2)))
    for kind, video in (("animatediff", animatediff.use_evolved_sampling(image)), ("vidrd", vidrd)):
        video_branch(run, kind, (image, video), texts, (frames, frames), "ddim_uniform")

    write_folder(folder / "zeroscope")
    folder_paths.add_model_folder_path("diffusers", str(folder))
    video, clip, vae = run("BIVDiffVideoModelLoader", name="zeroscope")
    texts = tuple(read(run("CLIPTextEncode", clip=clip, text=text)[0]) for text in (PROMPT, ""))
    video_branch(run, "folder", (image, video), texts, (frames, frames), "ddim_uniform")
    code(run, "folder", vae, images)


@contextmanager
def weights_at_once() -> Iterator[None]:
    """Under Dynamic VRAM layers have no weights until a file brings them, and these networks come from none."""
    import comfy.memory_management as memory

    lazy, memory.aimdo_enabled = memory.aimdo_enabled, False
    yield
    memory.aimdo_enabled = lazy


def video_branch(run, kind: str, models: tuple, texts: tuple, latents: tuple, scheduler: str) -> None:
    """Inversion by image and video model, blend, and smoothing in windows."""
    positive, negative = texts
    schedule = {"steps": 4, "scheduler": scheduler}
    given = {"conditioning": positive, "solver": "fireflow", **schedule}
    inverted = {}
    for branch, model, latent, options in zip(
        ("Image", "Video"), models, latents, ({"frames_per_batch": 2}, WINDOWS), strict=True
    ):
        made = run(f"BIVDiffInvert{branch}", model=model, latent=latent, **given, **options)[0]
        inverted[f"{branch.lower()}_latent"] = run.keep(f"{kind}: invert {branch}", made)
    mixed = run("BIVDiffMixedInversion", **inverted, mixing_ratio=0.25, mode="variance_preserving")[0]
    given = {"positive": positive, "negative": negative, "cfg": 2.0, **schedule, **WINDOWS}
    run.keep(f"{kind}: smooth", run("BIVDiffTemporalSmoother", model=models[1], latent=mixed, **given)[0])


def code(run, kind: str, vae, images: torch.Tensor) -> None:
    """Frames into latents and back."""
    encoded = run.keep(f"{kind}: encode", run("BIVDiffEncodeFrames", vae=vae, images=images)[0])
    run.keep(f"{kind}: decode", run("VAEDecode", samples=encoded, vae=vae)[0])
