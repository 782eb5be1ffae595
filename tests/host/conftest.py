"""Use the real ComfyUI in this process, on the CPU.

Test modules in this folder can import ComfyUI (``import comfy.samplers``). The fixture ``pack`` runs the pack's nodes.
"""

import pytest

from tools.in_process_comfyui import Pack, use_comfyui

use_comfyui(cpu=True)


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Pack:
    """The pack in this process's ComfyUI, whose input, output and temp folders are temporary."""
    import folder_paths

    folder_paths.set_input_directory(str(tmp_path_factory.mktemp("input")))
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("output")))
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    return Pack()


@pytest.fixture(scope="session")
def schemas(pack) -> dict:
    """The schema of every node of the pack, by node id."""
    return {node_id: pack.classes[node_id].GET_SCHEMA() for node_id in pack.node_ids}
