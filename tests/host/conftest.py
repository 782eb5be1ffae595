"""The real ComfyUI for tests, on the CPU: in this process, and as a server of its own.

ComfyUI is importable in test modules of this folder (``import comfy.samplers``), the pack through the ``pack`` fixture.
"""

import sys

import pytest

from tools.host import COMFYUI, Pack, use_comfyui
from tools.server import Server

use_comfyui(cpu=True)


@pytest.fixture(scope="session")
def pack(tmp_path_factory) -> Pack:
    """The pack in a host in this process, which saves its files in a temporary folder."""
    import folder_paths

    folder_paths.set_input_directory(str(tmp_path_factory.mktemp("input")))
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("output")))
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    return Pack()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI server with the pack."""
    with Server(sys.executable, COMFYUI, tmp_path_factory.mktemp("server"), cpu=True) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show what the server said in the report of a failed test."""
    report = yield
    if report.failed and "server" in item.funcargs:
        report.sections.append(("ComfyUI's log", item.funcargs["server"].log[-5000:]))
    return report
