"""Prompt2Prompt, the image editor in BIVDiff's editing task."""

from typing import Any

from comfy_api.latest import io

from ..bivdiff_core.grids import Schedule
from ..bivdiff_core.host.comfy_types import CLIP, Latent, Model
from ..bivdiff_core.host.prompt_editing import PromptEdit, edit_frames
from ..bivdiff_core.prompt2prompt import EDITS
from . import shared_inputs
from .base import PackNode


class Prompt2Prompt(PackNode):
    """Edits inverted frames by changing their prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffPrompt2Prompt",
            display_name="Prompt2Prompt Frame Editor",
            category=shared_inputs.CATEGORY,
            description="Edits frames by editing their prompt. The words of the target prompt reuse the attention of "
            "the source prompt's words, so the layout stays. First invert the frames with DDIM Inverse (Image) and "
            "the source prompt. For SD 1.5, SD 2 and SDXL.",
            search_aliases=["p2p", "prompt to prompt", "attention edit", "edit by prompt", "bivdiff"],
            inputs=[
                io.Model.Input("model", tooltip="The image model that the frames were inverted with."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Latent.Input(
                    "latent", tooltip="The frames from DDIM Inverse (Image), inverted with the source prompt."
                ),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    tooltip="What the frames show. Use the same text as in the inversion.",
                ),
                io.String.Input(
                    "target_prompt",
                    multiline=True,
                    tooltip="What the frames should show: the source prompt with words changed.",
                ),
                io.String.Input("negative_prompt", multiline=True, tooltip="What to keep out; usually empty."),
                shared_inputs.steps_input("Denoising steps; use the same number as in the inversion."),
                shared_inputs.cfg_input(
                    7.5, "How strictly both prompts are followed. High values move the frames away from the source."
                ),
                shared_inputs.scheduler_input("Use the same as in the inversion."),
                io.Combo.Input(
                    "edit",
                    options=list(EDITS),
                    default="replace",
                    tooltip="replace exchanges words one for one (cat for dog). refine adds or removes words. "
                    "reweight makes words more or less important; see word_weights.",
                ),
                io.Float.Input(
                    "cross_replace_steps",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps that reuse the source's cross-attention, which decides where each "
                    "word appears. Lower it to let shapes change more; 0 switches it off.",
                ),
                io.Float.Input(
                    "self_replace_steps",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps that reuse the source's self-attention, which holds the layout. Lower "
                    "it to let the layout change more; 0 switches it off.",
                ),
                io.String.Input(
                    "local_blend_words",
                    default="",
                    tooltip="Words of either prompt, such as cat dog: the picture changes only where they appear. "
                    "Leave it empty to edit everywhere.",
                ),
                io.String.Input(
                    "word_weights",
                    default="",
                    tooltip="For edit reweight: words of the target prompt and their weights, such as fluffy: 2, red: "
                    "0.5.",
                ),
                shared_inputs.frames_per_batch_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="edited", tooltip="The frames edited to the target prompt."),
                io.Latent.Output(
                    display_name="reconstructed",
                    tooltip="The frames denoised with the source prompt. Their differences from the original are what "
                    "inversion and cfg lost.",
                ),
            ],
        )

    @classmethod
    def run(
        cls,
        model: Model,
        clip: CLIP,
        latent: Latent,
        steps: int,
        cfg: float,
        scheduler: str,
        frames_per_batch: int,
        edit: str,
        **words: Any,
    ) -> io.NodeOutput:
        word_edit = PromptEdit(kind=edit, **words)
        return io.NodeOutput(
            *edit_frames(model, clip, latent, word_edit, Schedule(steps, scheduler), cfg, frames_per_batch)
        )
