"""A running ComfyUI server with the pack, shared by the tests that speak HTTP to it and those that use a browser."""

import sys

import pytest

from tools.host import COMFYUI
from tools.server import Server


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
