"""Chromium on a ComfyUI into which the packed archive has been installed."""

import shutil
import sys
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Error

from tools.browser import chromium as started
from tools.browser import opened
from tools.host import COMFYUI
from tools.parts import PACKAGED_CLIP
from tools.server import Server


@pytest.fixture(scope="session")
def server(archive, tmp_path_factory):
    """A running ComfyUI whose only pack is what the registry hands out, where the Manager puts it, and with a clip."""
    base = tmp_path_factory.mktemp("clean")
    pack = base / "custom_nodes" / "bivdiff"
    archive.extractall(pack)
    (base / "input").mkdir()
    shutil.copy(pack / "workflows" / PACKAGED_CLIP, base / "input")
    with Server(sys.executable, COMFYUI, base, cpu=True, pack=pack) as server:
        yield server


@pytest.fixture(scope="module")  # Playwright's event loop must be gone before other tests call asyncio.run
def chromium():
    """A browser, where one can be had."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(started())
        except Error as error:
            pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
        yield browser


@pytest.fixture(params=["classic", "vue"], scope="module")
def comfy(request, chromium: Browser, server: Server):
    """ComfyUI's page, with nodes drawn on its canvas or made of HTML."""
    with opened(chromium, server, request.param) as comfy:
        yield comfy
