"""The shipped workflows as an artist opens and runs them: from the template browser of a host with this pack alone."""

import sys
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

import pytest

from batch.comfyui_server import ComfyUIServer
from tools.browser import TIMEOUT_MS, ComfyUIPage
from tools.in_process_comfyui import COMFYUI

SHIPPED = [path.stem for path in sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))]
FIRST, STAGES = SHIPPED[:2]


@pytest.fixture
def template(comfy):
    """Opens what the template browser offers under a name."""

    def load(name: str) -> None:
        workflow = comfy.server.request(f"/api/workflow_templates/bivdiff/{quote(name)}.json")
        comfy.load(workflow, name, source="template")

    return load


def test_the_templates_are_offered(server):
    assert sorted(server.request("/workflow_templates")["bivdiff"]) == SHIPPED


@pytest.mark.parametrize("words", ["BIVDiff", "flicker"])
def test_the_template_browser_finds_them(comfy, words):
    found = [name for name in SHIPPED if words.lower() in name.lower()]
    assert FIRST in found
    comfy.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = comfy.page.get_by_role("dialog")
    dialog.get_by_placeholder("Search").fill(words)
    for name in found:
        dialog.get_by_text(name).first.wait_for()
    comfy.screenshot(f"search-{words}")
    comfy.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_workflow_opens(comfy, template, name):
    """Where its note can be read; drawn by the page, no node lies over another or outside its group."""
    template(name)
    assert comfy.missing_nodes() == []
    assert comfy.errors == []
    assert comfy.page.evaluate("app.canvas.ds.scale") == (1 if name == FIRST else 0.7)
    comfy.page.wait_for_timeout(500)  # nodes take the size that they need
    nodes, groups = boxes(comfy, "nodes"), boxes(comfy, "groups")
    for (one, box), (other, beside) in combinations(nodes, 2):
        assert apart(box, beside), f"{one} lies over {other}"
    for name_of, (left, top, right, bottom) in nodes:
        around = [title for title, g in groups if left > g[0] and top > g[1] and right < g[2] and bottom < g[3]]
        assert len(around) == (name_of != "Read me first"), name_of
    comfy.screenshot(name)


def boxes(comfy, what: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Titles of the open graph's nodes or groups with their left, top, right and bottom edges."""
    found = comfy.page.evaluate(f"app.rootGraph.{what}.map(each => [each.title, ...each.boundingRect])")
    return [(title, (x, y, x + width, y + height)) for title, x, y, width, height in found]


def apart(one: tuple, other: tuple) -> bool:
    return one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


def test_a_newcomer_sees_the_first_template_play(archive, chromium, tmp_path):
    """Whom the page greets with the template browser: by its card, and one click on Run."""
    pack = tmp_path / "custom_nodes" / "bivdiff"
    archive.extractall(pack)
    with ComfyUIServer(sys.executable, COMFYUI, tmp_path, cpu=True, pack=pack) as server:
        page = chromium.new_page(viewport={"width": 1600, "height": 900})
        page.set_default_timeout(TIMEOUT_MS)
        comfy = ComfyUIPage(page, server, "newcomer")
        page.goto(f"http://127.0.0.1:{server.port}")
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("All Templates").first.click()
        dialog.get_by_placeholder("Search").fill("BIVDiff")
        dialog.get_by_text(FIRST).first.click()
        page.wait_for_function("window.app.rootGraph.nodes.some(node => node.type === 'BIVDiffCompareVideos')")
        page.wait_for_function("window.app.canvas.ds.scale === 1")
        assert comfy.run()["status"]["status_str"] == "success"
        plays(comfy)
        comfy.screenshot("first-done")
        page.close()


def plays(comfy) -> None:
    """Wait until the open comparison, wholly in view, goes on to another frame."""
    wipe, count = comfy.page.get_by_label("wipe"), comfy.page.get_by_label("frame", exact=True)
    box, page = wipe.bounding_box(), comfy.page.viewport_size
    assert box["x"] > 0 and box["y"] > 0
    assert box["x"] + box["width"] < page["width"] and box["y"] + box["height"] < page["height"]
    shown = count.input_value()
    comfy.page.wait_for_function("([count, shown]) => count.value !== shown", arg=[count.element_handle(), shown])
    assert comfy.errors == []


def test_the_first_template_plays_its_comparison(comfy, template):
    template(FIRST)
    assert comfy.run()["status"]["status_str"] == "success"
    plays(comfy)
    comfy.screenshot("first-done")


def test_the_demo_runs_and_its_video_plays(comfy, template):
    template(STAGES)
    assert comfy.run()["status"]["status_str"] == "success"
    comfy.on_node("SaveVideo", "app.canvas.centerOnNode(node)")  # what is out of view is not in the page
    video = comfy.page.locator("video[src*='type=output']")
    video.evaluate("video => video.play()")
    comfy.page.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    comfy.on_node("BIVDiffCompareVideos", "app.canvas.centerOnNode(node)")
    comfy.page.get_by_label("change from frame to frame").wait_for()
    assert comfy.errors == []
    comfy.screenshot("stages-done")
