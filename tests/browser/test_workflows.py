"""The shipped workflows as an artist opens and runs them."""

import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


def workflow(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_shipped_workflows_open(comfy):
    for path in sorted(WORKFLOWS.glob("*.json")):
        comfy.load(workflow(path), path.stem)
        assert comfy.missing_nodes() == [], path.stem
        assert comfy.errors == [], path.stem
        comfy.screenshot(path.stem)


def test_the_demo_runs_and_its_video_plays(comfy):
    comfy.load(workflow(WORKFLOWS / "bivdiff_demo.json"), "bivdiff_demo")
    assert comfy.run()["status"]["status_str"] == "success"
    video = comfy.page.locator("video[src*='type=output']")
    video.evaluate("video => video.play()")
    comfy.page.wait_for_function("video => video.currentTime > 0.2", arg=video.element_handle())
    assert comfy.errors == []
    comfy.screenshot("bivdiff_demo-done")
