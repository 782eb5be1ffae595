"""ComfyUI's page in Chromium: the browser tests' and the help pictures' way to use the pack with the mouse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from batch.comfyui_server import ComfyUIServer
from tools.environment import find_chromium

SCREENSHOT_FOLDER = Path(__file__).resolve().parents[1] / "output" / "browser"
SOFTWARE_RENDERING_FLAGS = ["--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TIMEOUT_MS = 120_000  # ms, for a machine that is busy with other work


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that `python dev.py test` has fetched."""
    arguments = [*SOFTWARE_RENDERING_FLAGS, "--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(channel="chromium", executable_path=find_chromium(), args=arguments)
        yield browser
        browser.close()


@dataclass
class ComfyUIPage:
    """ComfyUI's page in the browser."""

    page: Page
    server: ComfyUIServer
    nodes: str
    errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Load the page and wait until it can take a workflow."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}")
        self.page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph?.nodes.length")
        self.page.wait_for_load_state("networkidle")  # the page has opened its own first workflow

    def load(self, workflow: dict, name: str, source: str = "file") -> None:
        """Open a workflow as from a file, or as a ``template``; only what it says from here on is kept."""
        self.errors.clear()
        load = "([workflow, name, openSource]) => app.loadGraphData(workflow, true, true, name, { openSource })"
        self.page.evaluate(load, [workflow, name, source])

    def missing_nodes(self) -> list[str]:
        """The types of the open workflow's nodes that the page does not know."""
        unknown = "app.rootGraph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
        return self.page.evaluate(unknown)

    def run(self) -> dict[str, Any]:
        """Click Run and wait for the end of the prompt: its entry in the server's history."""
        before = self.server.request("/history").keys()
        self.page.get_by_test_id("queue-button").click()
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < deadline:
            if new := self.server.request("/history").keys() - before:
                return self.server.request("/history")[new.pop()]
            self.page.wait_for_timeout(200)
        raise TimeoutError("the prompt did not end")

    def on_node(self, node_type: str, expression: str) -> Any:
        """What a JavaScript expression over `node`, the only one of a type, gives."""
        return self.page.evaluate(f"(node => {expression})(app.rootGraph.nodes.find(n => n.type === '{node_type}'))")

    def screenshot(self, name: str) -> None:
        """Keep what the page shows as output/browser/NAME-NODES.png, to be looked at."""
        SCREENSHOT_FOLDER.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOT_FOLDER / f"{name}-{self.nodes}.png")

    def on_console(self, message: ConsoleMessage) -> None:
        """Keep an error that this server's page caused; there may be no network beyond it.

        The front end asks the hub for the size of models that a graph lacks: that it may not is not counted.
        """
        asked = "https://huggingface.co/" in message.text and "Content Security Policy" in message.text
        ours = urlsplit(message.location["url"]).port == self.server.port and not asked
        if message.type == "error" and ours:
            self.errors.append(message.text)


@contextmanager
def open_comfyui(browser: Browser, server: ComfyUIServer, nodes: str) -> Iterator[ComfyUIPage]:
    """ComfyUI's page with ``classic`` nodes, drawn on its canvas, or ``vue`` ones, made of HTML."""
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": nodes == "vue",
        "Comfy.Execution.PreviewMethod": "latent2rgb",
        "Comfy.RightSidePanel.IsOpen": False,  # what the last page left open covers this one's graph
        "Comfy.Minimap.Visible": False,
    }
    server.request("/settings", settings)
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    comfy = ComfyUIPage(page, server, nodes)
    page.on("console", comfy.on_console)
    page.on("pageerror", lambda error: comfy.errors.append(str(error)))
    comfy.open()
    yield comfy
    page.close()
