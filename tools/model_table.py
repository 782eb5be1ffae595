"""The table of pairs in docs/models.md: which image and video models go together, and with which settings.

    python -m tools.model_table

What shares a latent space, how many frames a latent packs and what the nodes refuse come from the code. Sizes, lengths
and cfg are those that the models were trained on, or those of ComfyUI's templates.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from research.page_tables import ROOT, fill_page, markdown_table
from tools.in_process_comfyui import Pack, use_comfyui

PAGE, BLOCK = "docs/models.md", "pairs"
DEMO, SMALL, FAKE, NOTHING = "the demo models, measured", "a small network", "a fake of the pack", "nothing"
IMAGE_MODELS = {
    "SD15": "SD 1.5",
    "SD20": "SD 2",
    "SDXL": "SDXL",
    "QwenImage": "Qwen-Image",
    "Krea2": "Krea 2",
    "Anima": "Anima",
    "JoyImage": "JoyImage",
}
"""Names of ComfyUI's classes of image models that share a latent space with a video model."""
IMAGE_MODELS_NOT_RUN = {"Krea2", "Anima", "JoyImage"}


class VideoModel(NamedTuple):
    """A row of the table.

    Args:
        family: its record in model_families.py, by name.
        space: ComfyUI's class of its latents.
        ran_on: what its nodes were run on.
        kinds: ComfyUI's classes of the model; empty if another pack or this one loads it.
        frames: the lengths that it was trained on; the longest if it packs frames.
    """

    name: str
    family: str
    space: str
    ran_on: str
    kinds: tuple[str, ...] = ()
    size: str = ""
    frames: str = ""
    cfg: str = ""
    template: str = ""


IMAGE_KINDS = ("WAN21_I2V", "WAN21_FunControl2V", "WAN22_Animate")
UNET_3D, I2V, MEAN_FLOW = "UNet3DConditionModel", "Wan image-to-video", "mean-flow HunyuanVideo"
VIDEO_MODELS = (
    VideoModel("ZeroScope v2 576w", UNET_3D, "SD15", DEMO, (), "576x320", "8 to 24", "7.5", "13"),
    VideoModel("ModelScope 1.7b", UNET_3D, "SD15", DEMO, (), "256x256", "8 to 16", "7.5", "13"),
    VideoModel("VidRD", "VidRD", "SD15", SMALL, (), "512x512", "8", "7.5", "03"),
    VideoModel("AnimateDiff", "AnimateDiff", "SD15", FAKE, (), "512x512", "16", "7.5", "14"),
    VideoModel("AnimateDiff for SDXL, HotshotXL", "AnimateDiff", "SDXL", NOTHING),
    VideoModel("Stable Video Diffusion", "Stable Video Diffusion", "SD15", NOTHING, ("SVD_img2vid",)),
    VideoModel("Wan 2.1", "Wan", "Wan21", SMALL, ("WAN21_T2V",), "832x480", "81", "6", "15, 19, 20"),
    VideoModel("Wan 2.2 14B", "Wan", "Wan21", SMALL, ("WAN21_T2V",), "832x480", "81", "3.5", "21"),
    VideoModel("Wan VACE", "Wan", "Wan21", SMALL, ("WAN21_Vace",), "832x480", "81", "6", "22"),
    VideoModel("Wan image to video, Fun Control, Animate", I2V, "Wan21", SMALL, IMAGE_KINDS, "832x480", "81", "6"),
    VideoModel("Wan 2.2 5B", "Wan", "Wan22", SMALL, ("WAN22_T2V",), "1280x704", "121", "5"),
    VideoModel("LTX-Video", "LTX", "LTXV", SMALL, ("LTXV",), "768x512", "97", "3"),
    VideoModel("LTX-2", "video", "LTXAV", SMALL, ("LTXAV",), "768x512", "121", "4", "23"),
    VideoModel("HunyuanVideo", "HunyuanVideo", "HunyuanVideo", SMALL, ("HunyuanVideo",), "848x480", "73", "1"),
    VideoModel("HunyuanVideo, mean flow", MEAN_FLOW, "HunyuanVideo", SMALL, ("HunyuanVideo",), "848x480", "73", "1"),
    VideoModel(
        "HunyuanVideo 1.5", "HunyuanVideo", "HunyuanVideo15", SMALL, ("HunyuanVideo15",), "1280x720", "121", "6"
    ),
    VideoModel("Mochi", "Mochi", "Mochi", SMALL, ("GenmoMochi",), "848x480", "163", "4.5"),
)


def render_table(families: ModuleType) -> str:
    """The table, from the module `model_families` of the loaded pack."""
    return markdown_table([_render_row(model, families) for model in VIDEO_MODELS])


def _render_row(model: VideoModel, families: ModuleType) -> dict[str, str]:
    import comfy.latent_formats

    space = getattr(comfy.latent_formats, model.space)
    packed = space.temporal_downscale_ratio
    frames = f"{packed}n + 1, up to {model.frames}" if packed > 1 else model.frames
    return {
        "video model": model.name,
        "image branch": ", ".join(["itself"] * (packed > 1) + _partners(model.space)),
        "width x height": model.size,
        "frames": frames,
        "cfg": model.cfg,
        "refused": "; ".join(_refusals(model.family, space.latent_dimensions == 3, families)),
        "run on": model.ran_on,
        "template": model.template,
    }


def _partners(space: str) -> list[str]:
    """Names of the image models with these latents; those that were not run are in brackets."""
    import comfy.supported_models

    found = []
    for kind, name in IMAGE_MODELS.items():
        if getattr(comfy.supported_models, kind).latent_format.__name__ == space:
            found.append(f"({name})" if kind in IMAGE_MODELS_NOT_RUN else name)
    return found


def _refusals(name: str, has_time_axis: bool, families: ModuleType) -> list[str]:
    """What the pack refuses with models of a family."""
    family = next(family for family in families.FAMILIES if family.name == name)
    found = []
    if not family.supports_control:
        found.append("ControlNets")
    if not family.supports_frame_prompts:
        found.append("a prompt for each frame")
    if has_time_axis:
        found.append("Bridge Guider")
    if solvers := [solver for solver in families.SOLVERS if solver not in family.solvers]:
        found.append(f"the solvers {' and '.join(solvers)}")
    if family.image_source:
        found.append(f"prompts without {family.image_source.partition(',')[0]}")
    return found


def main() -> None:
    """Write the table."""
    use_comfyui(cpu=True)
    table = render_table(Pack().import_module("bivdiff_core.host.model_families"))
    (ROOT / PAGE).write_text(fill_page(PAGE, {BLOCK: table}), encoding="utf-8")


if __name__ == "__main__":
    main()
