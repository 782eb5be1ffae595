"""ComfyUI's frontend in Chromium, for the browser tests and the help pictures."""

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
TIMEOUT_MS = 120_000  # long enough for a busy machine


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Start the system's Chromium, or the one that `python dev.py test` downloaded."""
    arguments = [*SOFTWARE_RENDERING_FLAGS, "--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(channel="chromium", executable_path=find_chromium(), args=arguments)
        yield browser
        browser.close()


@dataclass
class ComfyUIPage:
    """ComfyUI's frontend in the browser; ``nodes`` is "classic" or "vue"."""

    page: Page
    server: ComfyUIServer
    nodes: str
    errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Load the page and wait until it can open a workflow."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}")
        self.page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph?.nodes.length")
        self.page.wait_for_load_state("networkidle")  # the frontend has opened its default workflow

    def load(self, workflow: dict, name: str, source: str = "file") -> None:
        """Open a workflow, as a file or as a ``template``, and clear the recorded errors."""
        self.errors.clear()
        load = "([workflow, name, openSource]) => app.loadGraphData(workflow, true, true, name, { openSource })"
        self.page.evaluate(load, [workflow, name, source])

    def missing_nodes(self) -> list[str]:
        """The types of nodes in the open workflow that the frontend has not registered."""
        unknown = "app.rootGraph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
        return self.page.evaluate(unknown)

    def run(self) -> dict[str, Any]:
        """Click Run, wait until the prompt ends, and return its entry in the server's history."""
        before = self.server.request("/history").keys()
        self.page.get_by_test_id("queue-button").click()
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while time.monotonic() < deadline:
            if new := self.server.request("/history").keys() - before:
                return self.server.request("/history")[new.pop()]
            self.page.wait_for_timeout(200)
        raise TimeoutError("the prompt did not end")

    def on_node(self, node_type: str, expression: str) -> Any:
        """Evaluate a JavaScript expression in which `node` is the first node of a type."""
        return self.page.evaluate(f"(node => {expression})(app.rootGraph.nodes.find(n => n.type === '{node_type}'))")

    def screenshot(self, name: str) -> None:
        """Save a screenshot of the page as output/browser/NAME-NODES.png."""
        SCREENSHOT_FOLDER.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOT_FOLDER / f"{name}-{self.nodes}.png")

    def on_console(self, message: ConsoleMessage) -> None:
        """Record an error from this server's page. Other servers may be unreachable.

        The frontend asks Hugging Face for the size of missing models; the browser blocks that. Such errors are ignored.
        """
        model_size = "https://huggingface.co/" in message.text and "Content Security Policy" in message.text
        ours = urlsplit(message.location["url"]).port == self.server.port and not model_size
        if message.type == "error" and ours:
            self.errors.append(message.text)


@contextmanager
def open_comfyui(browser: Browser, server: ComfyUIServer, nodes: str) -> Iterator[ComfyUIPage]:
    """Open ComfyUI's frontend with ``classic`` nodes, drawn on a canvas, or ``vue`` nodes, made of HTML."""
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": nodes == "vue",
        "Comfy.Execution.PreviewMethod": "latent2rgb",
        "Comfy.RightSidePanel.IsOpen": False,  # a panel left open by the last page would cover the graph
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
