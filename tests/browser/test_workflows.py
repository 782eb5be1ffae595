"""The shipped workflows as an artist opens and runs them: from the template browser of a host with this pack alone."""

from pathlib import Path
from urllib.parse import quote

import pytest

SHIPPED = [path.stem for path in sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))]
FIRST, STAGES = SHIPPED[:2]


@pytest.fixture
def template(comfy):
    """Opens what the template browser offers under a name."""
    return lambda name: comfy.load(comfy.server.request(f"/api/workflow_templates/bivdiff/{quote(name)}.json"), name)


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
    template(name)
    assert comfy.missing_nodes() == []
    assert comfy.errors == []
    comfy.screenshot(name)


def test_the_first_template_opens_at_full_size_and_its_comparison_plays(comfy, template):
    template(FIRST)
    assert comfy.page.evaluate("app.canvas.ds.scale") == 1
    assert comfy.run()["status"]["status_str"] == "success"
    wipe, count = comfy.page.get_by_label("wipe"), comfy.page.get_by_label("frame", exact=True)
    box, page = wipe.bounding_box(), comfy.page.viewport_size
    assert box["x"] > 0 and box["y"] > 0
    assert box["x"] + box["width"] < page["width"] and box["y"] + box["height"] < page["height"]
    shown = count.input_value()
    comfy.page.wait_for_function("([count, shown]) => count.value !== shown", arg=[count.element_handle(), shown])
    assert comfy.errors == []
    comfy.screenshot("first-done")


def test_the_demo_runs_and_its_video_plays(comfy, template):
    template(STAGES)
    assert comfy.run()["status"]["status_str"] == "success"
    comfy.on_node("SaveVideo", "app.canvas.centerOnNode(node)")  # what is out of view is not in the page
    video = comfy.page.locator("video[src*='type=output']")
    video.evaluate("video => video.play()")
    comfy.page.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    comfy.on_node("BIVDiffCompareVideos", "app.canvas.centerOnNode(node)")
    comfy.page.get_by_label("flicker").wait_for()
    assert comfy.errors == []
    comfy.screenshot("stages-done")
