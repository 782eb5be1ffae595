"""Mixed Inversion, BIVDiff's bridge: blends the noise of the image branch and of the video branch."""

from comfy_api.latest import io

from ..bivdiff_core.blend import MODES, TASK_RATIOS
from ..bivdiff_core.host.comfy_types import Latent
from ..bivdiff_core.host.inverted_latents import mix_branches
from ..bivdiff_core.host.validation import validate_inverted
from . import shared_inputs
from .base import PackNode, check_choices, prefix_errors

TASKS = ("custom", *TASK_RATIOS)


def _effective_ratio(task: str, mixing_ratio: float) -> float:
    """The mixing ratio in use.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"task {task} is not one of {', '.join(TASKS)}.")
    return TASK_RATIOS.get(task, mixing_ratio)


class MixedInversion(PackNode):
    """Blends the two branches' inverted latents; a zero-weight branch is skipped."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffMixedInversion",
            display_name="Mixed Inversion Blend",
            category=shared_inputs.CATEGORY,
            description="Mixes the frames inverted by the image model (image branch) and by the video model (video "
            "branch). With more of the image branch the video flickers less, with more of the video branch it stays "
            "closer to the frames. At a mixing ratio of 1 or 0 the other branch is skipped.",
            search_aliases=["mixed inversion", "latent mix", "bivdiff"],
            inputs=[
                io.Latent.Input(
                    "image_latent",
                    lazy=True,
                    tooltip="From DDIM Inverse (Image). Skipped at a mixing ratio of 0.",
                ),
                io.Latent.Input(
                    "video_latent",
                    lazy=True,
                    tooltip="From DDIM Inverse (Video). Skipped at a mixing ratio of 1.",
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="custom",
                    tooltip="Sets the paper's mixing ratio for a task: 1 for ControlNet, T2I-Adapter and "
                    "InstructPix2Pix, 0.25 for Prompt2Prompt, 0.1 for inpainting and outpainting. custom uses "
                    "mixing_ratio.",
                    extra_dict={"ratios": TASK_RATIOS},  # for js/mixed_inversion.js
                ),
                io.Float.Input(
                    "mixing_ratio",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Weight of the image branch. 1, the paper's for most tasks, skips the video branch. Lower "
                    "it if the video loses content of the frames; raise it if it flickers. Only for task custom.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="linear",
                    tooltip="linear is the paper's mode and usually the one to keep. If the video is grey or washed "
                    "out, try variance_preserving or slerp, which do not weaken the noise. frequency takes low "
                    "frequencies from the image branch and high ones from the video branch; mixing_ratio is then the "
                    "share of low frequencies.",
                ),
                io.Float.Input(
                    "steadiness",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Smooths the mixed noise over time. Try 0.5 for frames from independent noise at a "
                    "strength around 0.5; it helps most where little moves. At full strength it loses shapes. No "
                    "benefit with shared noise.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The mixed noise, for Video Temporal Smoother."),
                io.Float.Output(display_name="ratio", tooltip="The mixing ratio in use, for labels and file names."),
            ],
        )

    @classmethod
    def validate_inputs(cls, task: str | None = None, mixing_ratio: float | None = None) -> bool | str:
        """Check the values, because ComfyUI does not check inputs that this method takes; linked ones are None."""
        try:
            _effective_ratio(task or "custom", 0.0)
        except ValueError as error:
            return str(error)
        if mixing_ratio is None and task not in (None, "custom"):
            return f"task {task} sets the mixing ratio, but one is wired in as well. Set task to custom, or unlink it"
        if mixing_ratio is not None and not 0 <= mixing_ratio <= 1:
            return f"mixing_ratio {mixing_ratio} must lie between 0 (video branch) and 1 (image branch)"
        return True

    @classmethod
    def check_lazy_status(
        cls,
        task: str,
        mixing_ratio: float,
        mode: str,
        image_latent: Latent | None = None,
        video_latent: Latent | None = None,
        steadiness: float = 0.0,
    ) -> list[str]:
        """The missing branches with weight. First checks linked words, which ComfyUI does not check."""
        with prefix_errors(cls):
            ratio = _effective_ratio(task, mixing_ratio)
            check_choices(cls, {"mode": mode})
        branches = {
            "image_latent": image_latent if ratio > 0 else (),
            "video_latent": video_latent if ratio < 1 else (),
        }
        return [name for name, latent in branches.items() if latent is None]

    @classmethod
    def run(
        cls,
        task: str,
        mixing_ratio: float,
        mode: str,
        image_latent: Latent | None = None,
        video_latent: Latent | None = None,
        steadiness: float = 0.0,
    ) -> io.NodeOutput:
        ratio = _effective_ratio(task, mixing_ratio)
        image = validate_inverted(image_latent) if image_latent and ratio > 0 else None
        video = validate_inverted(video_latent) if video_latent and ratio < 1 else None
        return io.NodeOutput(mix_branches(image, video, ratio, mode, steadiness).to_latent(), ratio)
