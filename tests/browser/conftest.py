"""Chromium on a ComfyUI into which the packed archive has been installed."""

import shutil
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from batch.comfyui_server import ComfyUIServer
from tools.browser import launch_chromium as started
from tools.browser import open_comfyui
from tools.in_process_comfyui import COMFYUI
from tools.workflow_parts import PACKAGED_CLIP


@pytest.fixture(scope="session")
def server(archive, tmp_path_factory):
    """A running ComfyUI whose only pack is what the registry hands out, where the Manager puts it, and with a clip."""
    base = tmp_path_factory.mktemp("clean")
    pack = base / "custom_nodes" / "bivdiff"
    archive.extractall(pack)
    (base / "input").mkdir()
    shutil.copy(pack / "workflows" / PACKAGED_CLIP, base / "input")
    with ComfyUIServer(sys.executable, COMFYUI, base, cpu=True, pack=pack) as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser: these tests have a process of their own, for Playwright's event loop is in asyncio.run's way."""
    with started() as browser:
        yield browser


@pytest.fixture(params=["classic", "vue"], scope="session")
def comfy(request, chromium: Browser, server: ComfyUIServer):
    """ComfyUI's page, with nodes drawn on its canvas or made of HTML."""
    with open_comfyui(chromium, server, request.param) as comfy:
        yield comfy
