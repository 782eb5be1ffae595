"""Chromium with a ComfyUI in which the packed archive is installed."""

import shutil
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from batch.comfyui_server import ComfyUIServer
from tools.browser import launch_chromium, open_comfyui
from tools.in_process_comfyui import COMFYUI
from tools.workflow_parts import PACKAGED_CLIP


@pytest.fixture(scope="session")
def server(archive, tmp_path_factory):
    """A running ComfyUI with this pack only, unpacked from the archive, and with the packaged clip as input."""
    base = tmp_path_factory.mktemp("clean")
    pack = base / "custom_nodes" / "bivdiff"
    archive.extractall(pack)
    (base / "input").mkdir()
    shutil.copy(pack / "workflows" / PACKAGED_CLIP, base / "input")
    with ComfyUIServer(sys.executable, COMFYUI, base, cpu=True, pack=pack) as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser. These tests run in a separate process, because Playwright's event loop conflicts with asyncio.run."""
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(params=["classic", "vue"], scope="session")
def comfy(request, chromium: Browser, server: ComfyUIServer):
    """ComfyUI's frontend, with classic nodes on the canvas or with Vue nodes in HTML."""
    with open_comfyui(chromium, server, request.param) as comfy:
        yield comfy
