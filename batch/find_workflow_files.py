"""Find the models and input files that a workflow names, as ComfyUI does.

    COMFYUI'S-PYTHON batch/find_workflow_files.py COMFYUI

reads a JSON list of strings and prints those that name a file, as ``{"checkpoints/name": path}``. It is a separate
program because it imports ComfyUI's modules, and a batch may run in another Python.
"""

import json
import os
import sys
from pathlib import Path


def main(comfyui: Path) -> None:
    """Print the files named by the strings on standard input."""
    sys.path[0] = str(comfyui)
    import folder_paths
    from utils.extra_config import load_extra_path_config

    extra = comfyui / "extra_model_paths.yaml"
    if extra.is_file():
        load_extra_path_config(str(extra))
    roots = {kind: folders for kind, (folders, _) in folder_paths.folder_names_and_paths.items()}
    del roots["custom_nodes"]
    roots["input"] = [folder_paths.get_input_directory()]
    found = {}
    for string in filter(None, json.load(sys.stdin)):
        name = string.removesuffix(" [input]")
        for kind, folders in roots.items():
            for folder in folders:
                path = os.path.join(folder, name)
                if os.path.isfile(path) or (kind == "diffusers" and os.path.isdir(path)):
                    found.setdefault(f"{kind}/{name}", path)  # the first folder wins, as in ComfyUI
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
