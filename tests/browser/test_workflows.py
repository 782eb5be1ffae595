"""The shipped workflows as an artist opens and runs them: from the template browser of a host with this pack alone."""

from pathlib import Path
from urllib.parse import quote

import pytest

SHIPPED = [path.stem for path in sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))]


@pytest.fixture
def template(comfy):
    """Opens what the template browser offers under a name."""
    return lambda name: comfy.load(comfy.server.request(f"/api/workflow_templates/bivdiff/{quote(name)}.json"), name)


def test_the_templates_are_offered(server):
    assert sorted(server.request("/workflow_templates")["bivdiff"]) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_workflow_opens(comfy, template, name):
    template(name)
    assert comfy.missing_nodes() == []
    assert comfy.errors == []
    comfy.screenshot(name)


def test_the_demo_runs_and_its_video_plays(comfy, template):
    template("bivdiff_demo")
    assert comfy.run()["status"]["status_str"] == "success"
    video = comfy.page.locator("video[src*='type=output']")
    video.evaluate("video => video.play()")
    comfy.page.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    # The canvas shows no HTML on nodes as small as the page makes them to fit all in.
    comfy.on_node("BIVDiffCompareVideos", "{ app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); }")
    comfy.page.get_by_label("flicker").wait_for()
    assert comfy.errors == []
    comfy.screenshot("bivdiff_demo-done")
