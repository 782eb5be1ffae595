"""Where the stand-in for ComfyUI has its models, in the form that ComfyUI's module of this name has."""

from pathlib import Path

HERE = Path(__file__).parent
folder_names_and_paths = {"custom_nodes": ([], set()), "checkpoints": ([str(HERE / "models" / "checkpoints")], set())}


def get_input_directory() -> str:
    return str(HERE / "input")
