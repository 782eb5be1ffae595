"""The real ComfyUI for tests, on the CPU, in this process.

ComfyUI is importable in test modules of this folder (``import comfy.samplers``), the pack through the ``pack`` fixture.
"""

import pytest

from tools.in_process_comfyui import Pack, use_comfyui

use_comfyui(cpu=True)


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Pack:
    """The pack in a host in this process, which saves its files in a temporary folder."""
    import folder_paths

    folder_paths.set_input_directory(str(tmp_path_factory.mktemp("input")))
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("output")))
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    return Pack()
