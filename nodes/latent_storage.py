"""Save and load inverted latents, so that each inversion runs only once."""

import hashlib
import json
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io

from ..bivdiff_core.host.comfy_types import Latent
from ..bivdiff_core.host.confined_paths import is_confined
from ..bivdiff_core.host.inverted_latents import InvertedLatent
from ..bivdiff_core.host.latent_files import read_latent, write_latent
from ..bivdiff_core.host.validation import validate_inverted
from ..bivdiff_core.node_warnings import warn
from . import shared_inputs
from .base import PackNode

FOLDER, SUFFIX = "latents", ".latent"


class SaveLatent(PackNode):
    """Writes an inverted latent and its inversion record to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffSaveLatent",
            display_name="Save Inverted Latent",
            category=shared_inputs.CATEGORY,
            description="Saves inverted frames with their inversion record: how far they were inverted, by which kind "
            "of model, and their mask. ComfyUI's Save Latent saves only the values; a partly inverted latent is then "
            "smoothed as if it were full noise.",
            search_aliases=["save latent", "export latent", "save inversion", "store noise"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From DDIM Inverse or Mixed Inversion Blend. Saving makes this branch run: after DDIM "
                    "Inverse (Video) the video branch runs even at a mixing ratio of 1.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/BIVDiff",
                    tooltip="Subfolder of ComfyUI's output folder and start of the file name. Keep the subfolder "
                    "latents: Load Inverted Latent lists the files in it.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="LATENT", tooltip="The same latent, unchanged.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def run(cls, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        inverted = validate_inverted(latent)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_{SUFFIX}"
        write_latent(inverted, Path(folder, file), cls.workflow_metadata())
        saved = {"filename": file, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(latent, ui={"latents": [saved]})

    @classmethod
    def workflow_metadata(cls) -> dict[str, str]:
        """The running graph, as core's nodes store it in the files that they save."""
        if args.disable_metadata or not cls.hidden:
            return {}
        metadata = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return {name: json.dumps(value) for name, value in metadata.items() if value is not None}


class LoadLatent(PackNode):
    """Reads an inverted latent from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BIVDiffLoadLatent",
            display_name="Load Inverted Latent",
            category=shared_inputs.CATEGORY,
            description="Loads a latent saved by Save Inverted Latent, for Mixed Inversion Blend or Video Temporal "
            "Smoother. It also reads files of ComfyUI's Save Latent, which do not contain how far the latent was "
            "inverted.",
            search_aliases=["load latent", "import latent", "load inversion"],
            inputs=[
                io.Combo.Input(
                    "latent",
                    options=list_saved_latents(),
                    tooltip="A .latent file in output/latents or in the input folder. Press R after saving one.",
                )
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The inverted frames. For a file of ComfyUI's Save Latent, inverted with a strength below "
                    "1, set that strength in Video Temporal Smoother.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, latent: str | None = None) -> bool | str:
        """Check the file; a linked one is None here, and checked in `run`."""
        try:
            return latent is None or bool(find_latent_file(latent))
        except FileNotFoundError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, latent: str | None = None) -> str | float:
        """A hash of the file. A linked one is None here, and read again in every run (NaN)."""
        return float("nan") if latent is None else hashlib.sha256(find_latent_file(latent).read_bytes()).hexdigest()

    @classmethod
    def run(cls, latent: str) -> io.NodeOutput:
        loaded = read_latent(find_latent_file(latent))
        if InvertedLatent.from_latent(loaded).info is None:
            warn(
                "The file does not say how far the latent was inverted. If its strength was below 1, set the same "
                "strength in Video Temporal Smoother."
            )
        return io.NodeOutput(loaded)


def find_latent_file(name: str) -> Path:
    """The file of one of ComfyUI's annotated paths.

    Raises:
        FileNotFoundError: it does not exist, or is not inside ComfyUI's folders.
    """
    if not is_confined(name) or not folder_paths.exists_annotated_filepath(name):
        raise FileNotFoundError(f"there is no file {name}. Press R, and choose one from the list.")
    return Path(folder_paths.get_annotated_filepath(name))


def list_saved_latents() -> list[str]:
    """Latent files below output/latents and in the input folder, as ComfyUI's annotated paths."""
    output, input_folder = Path(folder_paths.get_output_directory()), Path(folder_paths.get_input_directory())
    saved = [f"{path.relative_to(output).as_posix()} [output]" for path in output.glob(f"{FOLDER}/**/*{SUFFIX}")]
    return sorted(saved, reverse=True) + sorted(path.name for path in input_folder.glob(f"*{SUFFIX}"))
