"""Open and run the shipped workflows from the template browser of a ComfyUI with this pack only."""

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
    """A function that opens a template by its name."""

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
    """No node overlaps another or is outside its group."""
    template(name)
    assert comfy.missing_nodes() == []
    assert comfy.errors == []
    comfy.page.wait_for_timeout(500)  # nodes get their final size
    nodes, groups = boxes(comfy, "nodes"), boxes(comfy, "groups")
    for (title_a, box_a), (title_b, box_b) in combinations(nodes, 2):
        assert do_not_overlap(box_a, box_b), f"{title_a} overlaps {title_b}"
    for title, (left, top, right, bottom) in nodes:
        groups_around = [name for name, g in groups if left > g[0] and top > g[1] and right < g[2] and bottom < g[3]]
        assert len(groups_around) == (title != "Read me first"), title
    comfy.screenshot(name)


def boxes(comfy, what: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Titles of the open graph's nodes or groups with their left, top, right and bottom edges."""
    found = comfy.page.evaluate(f"app.rootGraph.{what}.map(each => [each.title, ...each.boundingRect])")
    return [(title, (x, y, x + width, y + height)) for title, x, y, width, height in found]


def do_not_overlap(a: tuple, b: tuple) -> bool:
    return a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


@pytest.mark.parametrize("size", [(1366, 768), (1600, 900)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_new_user_sees_the_first_template_play(archive, chromium, tmp_path, size):
    """For new users the frontend opens the template browser. A click on the card and one on Run suffice."""
    pack = tmp_path / "custom_nodes" / "bivdiff"
    archive.extractall(pack)
    with ComfyUIServer(sys.executable, COMFYUI, tmp_path, cpu=True, pack=pack) as server:
        page = chromium.new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
        page.set_default_timeout(TIMEOUT_MS)
        comfy = ComfyUIPage(page, server, "newcomer")
        page.goto(f"http://127.0.0.1:{server.port}")
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("All Templates").first.click()
        dialog.get_by_placeholder("Search").fill("BIVDiff")
        dialog.get_by_text(FIRST).first.click()
        page.wait_for_function("window.app.rootGraph.nodes.some(node => node.type === 'BIVDiffCompareVideos')")
        comfy.screenshot(f"first-opened-{size[0]}")
        assert comfy.run()["status"]["status_str"] == "success"
        wait_until_playing(comfy)
        comfy.screenshot(f"first-done-{size[0]}")
        view, result = (
            edges(page.locator(f"[aria-label='{name}']")) for name in ("wipe", "change from frame to frame")
        )
        minimap = edges(page.get_by_test_id("minimap-container"))
        assert do_not_overlap(view, minimap) and do_not_overlap(result, minimap)
        page.close()


def edges(locator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of an element in the page."""
    box = locator.bounding_box()
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def wait_until_playing(comfy) -> None:
    """Wait until the comparison, which must be fully visible, shows another frame."""
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
    wait_until_playing(comfy)
    comfy.screenshot("first-done")


def test_a_control_of_the_one_node_has_a_tooltip(comfy, template):
    """That of the control inside which it sets."""
    if comfy.nodes == "vue":
        pytest.skip("Vue nodes show no tooltips of subgraphs' controls (frontend 1.47)")
    template(FIRST)
    find_ratio = """() => {
      const node = app.rootGraph.nodes.find((node) => node.title === "BIVDiff");
      const ratio = node.widgets.find((widget) => widget.name === "mixing_ratio");
      const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + ratio.last_y + 10];
      return app.canvas.ds.convertOffsetToCanvas(place);
    }"""
    comfy.page.wait_for_timeout(500)  # the view is fitted to the graph
    comfy.page.mouse.move(0, 300)
    comfy.page.mouse.move(*comfy.page.evaluate(find_ratio))
    comfy.page.get_by_text("Weight of the image branch").wait_for()


def test_the_demo_runs_and_its_video_plays(comfy, template):
    template(STAGES)
    assert comfy.run()["status"]["status_str"] == "success"
    comfy.page.evaluate("app.canvas.ds.scale = 1")  # so small or out of view, nodes are not in the DOM
    comfy.on_node("SaveVideo", "app.canvas.centerOnNode(node)")
    video = comfy.page.locator("video[src*='type=output']")
    video.evaluate("video => video.play()")
    comfy.page.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    comfy.on_node("BIVDiffCompareVideos", "app.canvas.centerOnNode(node)")
    comfy.page.get_by_label("change from frame to frame").wait_for()
    assert comfy.errors == []
    comfy.screenshot("stages-done")
