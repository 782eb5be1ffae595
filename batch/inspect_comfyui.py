"""Ask ComfyUI's modules where it looks for models and packs.

    COMFYUI'S-PYTHON batch/inspect_comfyui.py COMFYUI [COMFYUI'S ARGUMENTS]

reads a JSON list of strings and prints `ComfyUIFolders` of installation.py: which strings name a file, the folders of
custom nodes, and whether comfy-cli is installed. It is a separate program because it imports ComfyUI's modules, and a
batch may run in another Python.
"""

import importlib.util
import json
import os
import sys
from itertools import chain
from pathlib import Path


def main(comfyui: Path) -> None:
    """Print the folders, with the files named by the strings on standard input."""
    sys.path.insert(0, str(comfyui))
    sys.argv[1:2] = []  # ComfyUI parses the other arguments
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    from comfy.cli_args import args
    from utils.extra_config import load_extra_path_config

    # What ComfyUI's main.py does, in the same order.
    configs = [comfyui / "extra_model_paths.yaml", *chain(*(args.extra_model_paths_config or []))]
    for config in configs:
        if os.path.isfile(config):
            load_extra_path_config(str(config))
    roots = {kind: folders for kind, (folders, _) in folder_paths.folder_names_and_paths.items()}
    custom_nodes = roots.pop("custom_nodes")
    roots["input"] = [args.input_directory or folder_paths.get_input_directory()]
    found = {}
    for string in filter(None, json.load(sys.stdin)):
        name = string.removesuffix(" [input]")
        for kind, folders in roots.items():
            for folder in folders:
                path = os.path.join(folder, name)
                if os.path.isfile(path) or (kind == "diffusers" and os.path.isdir(path)):
                    found.setdefault(f"{kind}/{name}", path)  # the first folder wins, as in ComfyUI
    has_converter = importlib.util.find_spec("comfy_cli") is not None
    print(json.dumps({"files": found, "custom_nodes": custom_nodes, "has_converter": has_converter}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
