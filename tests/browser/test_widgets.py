"""The pack's frontend code in a browser: task presets, Compare Videos, the blueprint, warnings and errors."""

import json
from pathlib import Path

import pytest

from bivdiff_core.blend import TASK_RATIOS


def workflow(*nodes: dict, links: list[list] = ()) -> dict:
    """A graph of nodes side by side; a link is [id, from node, slot, to node, slot, type], as in saved workflows."""
    for i, node in enumerate(nodes):
        node.update(id=i + 1, pos=[350 * i, 0], size=[320, 200])
        for slots in ("inputs", "outputs"):
            if not isinstance(node.get(slots), list):
                node[slots] = [{"name": name, "type": kind} for name, kind in node.get(slots, {}).items()]
    for key, source, out, target, into, _ in links:
        nodes[source - 1]["outputs"][out].setdefault("links", []).append(key)
        nodes[target - 1]["inputs"][into]["link"] = key
    return {"nodes": list(nodes), "links": list(links), "version": 0.4, "last_node_id": 99, "last_link_id": 99}


CLIP = {"type": "BIVDiffDemoClip", "outputs": {"VIDEO": "VIDEO"}, "widgets_values": [8]}
COMPONENTS = {
    "type": "GetVideoComponents",
    "inputs": {"video": "VIDEO"},
    "outputs": {"images": "IMAGE", "audio": "AUDIO"},
}
DEMO_MODELS = {
    "type": "BIVDiffDemoModels",
    "outputs": {
        "image_model": "MODEL",
        "video_model": "MODEL",
        "CLIP": "CLIP",
        "VAE": "VAE",
        "CONTROL_NET": "CONTROL_NET",
    },
    "widgets_values": ["base"],
}
BLUEPRINTS = Path(__file__).resolve().parents[2] / "subgraphs"


def blend(task: str, ratio: float) -> dict:
    return workflow({"type": "BIVDiffMixedInversion", "widgets_values": [task, ratio, "linear"]})


def comparison(after: dict, links: list[list] = ()) -> dict:
    """A graph that compares the demo clip with the images of the node `after`."""
    return workflow(
        {**CLIP},
        {**COMPONENTS},
        after,
        {
            "type": "BIVDiffCompareVideos",
            "inputs": {"before": "IMAGE", "after": "IMAGE", "audio": "AUDIO"},
            "widgets_values": [8.0],
        },
        links=[
            [1, 1, 0, 2, 0, "VIDEO"],
            [2, 2, 0, 4, 0, "IMAGE"],
            [3, 3, 0, 4, 1, "IMAGE"],
            *links,
        ],
    )


def choose(comfy, task: str) -> None:
    """Pick a task from the blend's list."""
    if comfy.nodes == "vue":
        # The list opens below the node, so the node must not be at the lower edge.
        comfy.on_node("BIVDiffMixedInversion", "app.canvas.centerOnNode(node)")
        comfy.page.get_by_role("combobox", name="task").click()
        comfy.page.get_by_role("option", name=task, exact=True).click()
        return
    middle = "[node.pos[0] + node.size[0] / 2, node.pos[1] + node.widgets[0].last_y + 10]"
    comfy.page.wait_for_timeout(500)  # the canvas sets the widgets' positions when it draws them
    x, y = comfy.on_node("BIVDiffMixedInversion", f"app.canvas.ds.convertOffsetToCanvas({middle})")
    comfy.page.mouse.click(x, y)
    comfy.page.locator(".litemenu-entry").get_by_text(task, exact=True).click()


def ratio(comfy) -> tuple:
    """Value, label and lock of the blend's mixing_ratio."""
    widget = "node.widgets.find(widget => widget.name === 'mixing_ratio')"
    return tuple(comfy.on_node("BIVDiffMixedInversion", f"(w => [w.value, w.label, w.disabled])({widget})"))


def test_a_task_shows_its_ratio_and_locks_it(comfy):
    comfy.load(blend("custom", 0.5), "blend")
    assert ratio(comfy) == (0.5, "mixing_ratio", False)
    choose(comfy, "inpainting")
    assert ratio(comfy) == (0.1, "mixing_ratio = 0.1", True)
    if comfy.nodes == "vue":
        assert comfy.page.get_by_role("spinbutton").first.is_disabled()  # the other one is steadiness
    comfy.screenshot("task-preset")
    choose(comfy, "custom")
    assert ratio(comfy) == (0.1, "mixing_ratio", False)
    assert comfy.errors == []


@pytest.mark.parametrize("task", TASK_RATIOS)
def test_a_saved_preset_is_locked_after_loading(comfy, task):
    comfy.load(blend(task, 0.9), "blend")
    value, label, locked = ratio(comfy)
    assert value == float(label.removeprefix("mixing_ratio = ")) == TASK_RATIOS[task]
    assert locked


RECORD_VIDEOS = """() => {
  window.videos = [];
  const create = document.createElement.bind(document);
  document.createElement = (tag, ...options) => {
    const element = create(tag, ...options);
    if (tag === "video") window.videos.push(element);
    return element;
  };
}"""
"""Keeps the page's video elements, of which Compare Videos shows only copies of their frames."""


def wait_for_pixel(comfy, x: float, y: float, condition: str) -> None:
    """Wait until `red`, `green` and `blue` at a point of the comparison, given in shares of its sides, fit."""
    pixel = "view.getContext('2d').getImageData(x * view.width, y * view.height, 1, 1).data"
    view = comfy.page.get_by_label("wipe").element_handle()
    function = f"([view, x, y]) => {{ const [red, green, blue] = {pixel}; return {condition}; }}"
    comfy.page.wait_for_function(function, arg=[view, x, y])


def test_two_videos_are_compared(comfy):
    inverted = {"type": "ImageInvert", "inputs": {"image": "IMAGE"}, "outputs": {"IMAGE": "IMAGE"}}
    graph = comparison(inverted, links=[[4, 2, 0, 3, 0, "IMAGE"], [5, 2, 1, 4, 2, "AUDIO"]])
    comfy.load(graph, "compare")
    comfy.page.evaluate(RECORD_VIDEOS)
    comfy.page.get_by_text("Run to compare").wait_for()
    comfy.screenshot("compare-videos-empty")
    assert comfy.run()["status"]["status_str"] == "success"
    view, frame = comfy.page.get_by_label("wipe"), comfy.page.get_by_label("frame", exact=True)

    def wait_for_clips(left: str, right: str) -> None:
        """The clip's background is blue, that of the negative yellow, on both sides of the middle."""
        conditions = {"clip": "red < blue", "negative": "red > blue"}
        for x, clip in ((0.4, left), (0.6, right)):
            wait_for_pixel(comfy, x, 0.2, conditions[clip])

    comfy.page.wait_for_function("frame => frame.value !== '0'", arg=frame.element_handle())  # it plays automatically
    comfy.on_node("BIVDiffCompareVideos", "{ app.canvas.ds.offset[0] -= 5000; app.canvas.setDirty(true, true); }")
    comfy.page.wait_for_function("videos.at(-1).paused")  # out of view
    comfy.on_node("BIVDiffCompareVideos", "app.canvas.centerOnNode(node)")
    comfy.page.wait_for_function("!videos.at(-1).paused")
    frame.fill("0")  # and stops when the user scrubs
    assert comfy.page.get_by_text("frame 0 of 8").is_visible()
    wait_for_clips("clip", "negative")
    box = view.bounding_box()
    comfy.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    comfy.page.mouse.down()
    comfy.page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
    comfy.page.mouse.up()
    wait_for_clips("clip", "clip")
    frame.fill("5")
    comfy.screenshot("compare-videos")
    tabs = comfy.page.get_by_test_id("topbar-workflow-tabs")
    tabs.get_by_text("Unsaved Workflow").click()
    view.wait_for(state="detached")
    tabs.get_by_text("compare", exact=True).click()
    comfy.page.get_by_text("frame 5 of 8").wait_for()  # the videos are shown again, as they were left
    assert comfy.page.evaluate("videos.at(-1).paused")
    wait_for_clips("clip", "clip")
    assert comfy.errors == []


def test_the_report_leads_to_the_frame_that_flickers_most(comfy):
    graph = workflow(
        {**CLIP},
        {**COMPONENTS},
        {"type": "BIVDiffTemporalReport", "inputs": {"images": "IMAGE"}},
        {"type": "BIVDiffCompareVideos", "inputs": {"before": "IMAGE", "after": "IMAGE"}, "widgets_values": [8.0]},
        links=[
            [1, 1, 0, 2, 0, "VIDEO"],
            [2, 2, 0, 3, 0, "IMAGE"],
            [3, 2, 0, 4, 0, "IMAGE"],
            [4, 2, 0, 4, 1, "IMAGE"],
        ],
    )
    comfy.load(graph, "worst")
    assert comfy.run()["status"]["status_str"] == "success"
    link = comfy.page.get_by_text("Compare at frame")
    number = link.inner_text().split()[-1]
    assert comfy.page.get_by_text(f"Frame {number} flickers most").is_visible()
    link.click()
    assert comfy.page.get_by_text(f"frame {number} of 8").is_visible()
    assert comfy.page.get_by_label("play").inner_text() == "▶"
    comfy.screenshot("report-link")
    assert comfy.errors == []


def test_each_frame_of_a_list_of_clips_is_shown_in_its_colours_with_sound(comfy):
    """A list of two clips: a video of two frames and a picture."""
    colours = [(32, 64, 160), (200, 128, 64), (90, 220, 90)]
    frames = [
        {
            "type": "EmptyImage",
            "outputs": {"IMAGE": "IMAGE"},
            "widgets_values": [96, 64, 1, (red << 16) + (green << 8) + blue],
        }
        for red, green, blue in colours
    ]
    batch = {"type": "ImageBatch", "inputs": {"image1": "IMAGE", "image2": "IMAGE"}, "outputs": {"IMAGE": "IMAGE"}}
    graph = workflow(
        *frames,
        {**batch},
        {**batch},
        {
            "type": "RebatchImages",
            "inputs": {"images": "IMAGE"},
            "outputs": {"IMAGE": "IMAGE"},
            "widgets_values": [2],
        },
        {"type": "EmptyAudio", "outputs": {"AUDIO": "AUDIO"}, "widgets_values": [1.0, 44100, 2]},
        {
            "type": "BIVDiffCompareVideos",
            "inputs": {"before": "IMAGE", "after": "IMAGE", "audio": "AUDIO"},
            "widgets_values": [8.0],
        },
        links=[
            [1, 1, 0, 4, 0, "IMAGE"],
            [2, 2, 0, 4, 1, "IMAGE"],
            [3, 4, 0, 5, 0, "IMAGE"],
            [4, 3, 0, 5, 1, "IMAGE"],
            [5, 5, 0, 6, 0, "IMAGE"],
            [6, 6, 0, 8, 0, "IMAGE"],
            [7, 6, 0, 8, 1, "IMAGE"],
            [8, 7, 0, 8, 2, "AUDIO"],
        ],
    )
    comfy.load(graph, "colours")
    comfy.page.evaluate(RECORD_VIDEOS)
    assert comfy.run()["status"]["status_str"] == "success"
    comfy.on_node("BIVDiffCompareVideos", "{ app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); }")
    sound, frame = comfy.page.get_by_label("sound"), comfy.page.get_by_label("frame", exact=True)
    assert comfy.page.evaluate("videos.at(-1).muted")
    sound.click()
    comfy.page.wait_for_function("!videos.at(-1).muted && videos.at(-1).webkitAudioDecodedByteCount > 0")
    for number in (2, 0, 1):  # it plays
        comfy.page.wait_for_function("([frame, i]) => frame.value == i", arg=[frame.element_handle(), number])
    for number in (2, 0, 1, 0, 2, 1):
        frame.fill(str(number))
        distance = "Math.hypot(red - {}, green - {}, blue - {})".format(*colours[number])
        for x in (0.3, 0.7):  # without a graphics card Chromium makes blue a little darker
            wait_for_pixel(comfy, x, 0.5, f"{distance} < 9")
    comfy.screenshot("compare-list")
    assert comfy.errors == []


def find_notice(comfy, text: str):
    """The notice with a text. Frontend 1.58 has another element before it, for screen readers."""
    return comfy.page.get_by_role("alert").filter(has_text=text).last


def test_an_error_is_shown_in_the_frontend(comfy):
    """The pack's message needs no click, unlike ComfyUI's notice, and stays until the next run."""
    frames = {"type": "EmptyImage", "outputs": {"IMAGE": "IMAGE"}, "widgets_values": [64, 64, 3, 0]}
    comfy.load(comparison(frames), "error")
    assert comfy.run()["status"]["status_str"] == "error"
    alert = find_notice(comfy, "before has 8 frames and after has 3.")
    alert.wait_for()
    assert alert.inner_text().startswith("Compare Videos\n") and "Select Frames" in alert.inner_text()
    comfy.page.wait_for_timeout(500)  # for the screenshot: the message slides in
    comfy.screenshot("error")
    comfy.on_node("BIVDiffCompareVideos", "{ node.title = 'My clips'; }")
    assert comfy.run()["status"]["status_str"] == "error"
    renamed = find_notice(comfy, "Compare Videos: before has 8 frames and after has 3.")
    renamed.wait_for()
    assert renamed.inner_text().startswith("My clips\nCompare Videos: before has 8 frames")
    comfy.on_node("EmptyImage", "{ node.widgets[2].value = 8; }")
    assert comfy.run()["status"]["status_str"] == "success"
    alert.wait_for(state="detached")


def test_an_error_inside_a_core_sampler_is_shown_too(comfy):
    """Frame Chunks raises the error, but the frontend only knows that KSampler failed."""
    models = {"class_type": "BIVDiffDemoModels", "inputs": {"variant": "base"}}
    text = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 2], "text": ""}}
    chunked = {"class_type": "BIVDiffFrameChunks", "inputs": {"model": ["1", 0], "frames_per_batch": 2}}
    empty = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 4}}
    hints = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 3, "color": 0}}
    wires = {"positive": ["2", 0], "negative": ["2", 0], "control_net": ["1", 4], "image": ["5", 0]}
    apply_control = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {**wires, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
    }
    wires = {"model": ["3", 0], "positive": ["6", 0], "negative": ["6", 1], "latent_image": ["4", 0]}
    settings = {"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampler = {"class_type": "KSampler", "inputs": {**wires, **settings}}
    decoded = {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["1", 3]}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    nodes = (models, text, chunked, empty, hints, apply_control, sampler, decoded, shown)
    prompt = {str(number): node for number, node in enumerate(nodes, start=1)}
    comfy.page.evaluate("prompt => app.loadApiJson(prompt, 'core-error')", prompt)
    assert comfy.run()["status"]["status_str"] == "error"
    alert = find_notice(comfy, "the control hint has 3 frames but the latent has 4.")
    alert.wait_for()
    assert alert.inner_text().startswith("KSampler\n")


def is_red(element) -> bool:
    """Whether an element's background has more red than green."""
    red, green, _ = element.evaluate("element => getComputedStyle(element).backgroundColor.match(/\\d+/g).map(Number)")
    return red > green


def test_the_reports_are_shown_also_after_a_reload(comfy):
    """Without nodes after them. After the reload the server has all results in its cache."""
    comfy.load(
        workflow(
            {**CLIP},
            {**COMPONENTS},
            {"type": "EmptyLatentImage", "outputs": {"LATENT": "LATENT"}, "widgets_values": [64, 64, 8]},
            {"type": "BIVDiffLatentReport", "inputs": {"latent": "LATENT"}},
            {
                "type": "BIVDiffTemporalReport",
                "inputs": {"images": "IMAGE", "reference_images": "IMAGE", "clip_vision": "CLIP_VISION"},
            },
            links=[
                [1, 1, 0, 2, 0, "VIDEO"],
                [2, 3, 0, 4, 0, "LATENT"],
                [3, 2, 0, 5, 0, "IMAGE"],
                [4, 2, 0, 5, 1, "IMAGE"],
            ],
        ),
        "reports",
    )
    for page in ("new", "reloaded"):
        if page == "reloaded":
            comfy.open()
            comfy.errors.clear()
        assert comfy.run()["status"]["status_str"] == "success"
        for node_type, message in (("BIVDiffLatentReport", "Alarm: "), ("BIVDiffTemporalReport", "Not steadier.")):
            comfy.on_node(node_type, "{ app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); }")
            verdict = comfy.page.get_by_role("status").filter(has_text=message)
            verdict.wait_for()
            lines = verdict.inner_text().splitlines()
            assert len(set(lines)) == len(lines)
            assert is_red(verdict)
            plot = verdict.locator("xpath=following-sibling::img")
            comfy.page.wait_for_function("plot => plot.naturalWidth > 0", arg=plot.element_handle())
            comfy.screenshot(f"{node_type}-{page}")
            if node_type == "BIVDiffTemporalReport":
                fold = comfy.page.locator("details").filter(has_text="All measurements")
                fold.locator("summary").click()
                plot = fold.locator("img")
                comfy.screenshot(f"{node_type}-open-{page}")
            width, height = (plot.bounding_box()[side] for side in ("width", "height"))
            assert width > 280 and height > 280  # of the node's 320, large enough to read
    assert comfy.errors == []


def test_a_warning_shows_on_its_node(comfy):
    """A word that the demo models do not know warns on ComfyUI's node, a wrong model on the pack's."""
    comfy.load(
        workflow(
            {**CLIP},
            {**COMPONENTS},
            {**DEMO_MODELS},
            {
                "type": "CLIPTextEncode",
                "inputs": {"clip": "CLIP"},
                "outputs": {"CONDITIONING": "CONDITIONING"},
                "widgets_values": [f"a yellow sailboat, {comfy.nodes}"],
            },
            {"type": "VAEEncode", "inputs": {"pixels": "IMAGE", "vae": "VAE"}, "outputs": {"LATENT": "LATENT"}},
            {
                "type": "FreeU_V2",
                "inputs": {"model": "MODEL"},
                "outputs": {"MODEL": "MODEL"},
                "widgets_values": [1.0, 1.0, 1.0, 1.0],
            },
            {
                "type": "BIVDiffInvertVideo",
                "inputs": {"model": "MODEL", "conditioning": "CONDITIONING", "latent": "LATENT"},
                "outputs": {"LATENT": "LATENT"},
                "widgets_values": [4, "ddim_uniform", "ddim", 1.0, "matched", 0, 0],
            },
            {"type": "BIVDiffLatentReport", "inputs": {"latent": "LATENT"}},
            links=[
                [1, 1, 0, 2, 0, "VIDEO"],
                [2, 2, 0, 5, 0, "IMAGE"],
                [3, 3, 3, 5, 1, "VAE"],
                [4, 3, 2, 4, 0, "CLIP"],
                [5, 3, 0, 6, 0, "MODEL"],
                [6, 6, 0, 7, 0, "MODEL"],
                [7, 4, 0, 7, 1, "CONDITIONING"],
                [8, 5, 0, 7, 2, "LATENT"],
                [9, 7, 0, 8, 0, "LATENT"],
            ],
        ),
        "warning",
    )
    assert comfy.run()["status"]["status_str"] == "success"
    comfy.on_node("CLIPTextEncode", "{ app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); }")
    unknown = comfy.page.get_by_text(f"The demo models skip words that they do not know: {comfy.nodes}.")
    unknown.wait_for()
    assert "They know: a, an, over," in unknown.inner_text()
    comfy.screenshot("unknown-word")
    comfy.on_node("CLIPTextEncode", "{ node.widgets[0].value = 'a yellow sailboat'; }")
    assert comfy.run()["status"]["status_str"] == "success"
    unknown.wait_for(state="detached")

    comfy.on_node("BIVDiffInvertVideo", "{ app.canvas.ds.scale = 1; app.canvas.centerOnNode(node); }")
    text = comfy.page.get_by_text("The model looks like an image model")
    text.wait_for()
    assert "wire a video model" in text.inner_text()
    comfy.screenshot("warning")
    for strength in (1.0, 0.5):  # first cached, then executed again
        comfy.on_node("BIVDiffInvertVideo", f"{{ node.widgets[3].value = {strength}; }}")
        assert comfy.run()["status"]["status_str"] == "success"
        text.wait_for()
    # With the video model the warning disappears.
    connect = "graph.getNodeById(3).connect(1, graph.getNodeById(7), 0)"
    comfy.page.evaluate(f"(graph => {{ {connect}; }})(app.rootGraph)")
    assert comfy.run()["status"]["status_str"] == "success"
    text.wait_for(state="detached")
    assert comfy.errors == []


def convert_to_subgraph(comfy) -> None:
    """Convert all nodes to a subgraph. In the page, `holder` is its node and `inner` the first node inside."""
    comfy.page.evaluate("void app.rootGraph.convertToSubgraph(new Set(app.rootGraph.nodes))")
    comfy.page.evaluate("void (window.holder = app.rootGraph.nodes.find(node => node.subgraph))")
    comfy.page.evaluate("void (window.inner = holder.subgraph.nodes[0])")


def test_a_report_in_a_subgraph_is_shown_again_after_a_change_of_tabs(comfy):
    comfy.load(
        workflow(
            {"type": "EmptyLatentImage", "outputs": {"LATENT": "LATENT"}, "widgets_values": [64, 64, 8]},
            {"type": "BIVDiffLatentReport", "inputs": {"latent": "LATENT"}},
            links=[[1, 1, 0, 2, 0, "LATENT"]],
        ),
        "inner",
    )
    convert_to_subgraph(comfy)
    assert comfy.run()["status"]["status_str"] == "success"
    report = "app.rootGraph.nodes[0]?.subgraph?.nodes.find(node => node.type === 'BIVDiffLatentReport')"
    report_text = f"{report}?.widgets.find(widget => widget.name === 'output').element.textContent"
    comfy.page.wait_for_function(report_text)
    before = comfy.page.evaluate(report_text)
    tabs = comfy.page.get_by_test_id("topbar-workflow-tabs")
    tabs.get_by_text("Unsaved Workflow").click()
    comfy.page.wait_for_function(f"!{report}")
    tabs.get_by_text("inner", exact=True).click()
    comfy.page.wait_for_function(report_text)
    assert comfy.page.evaluate(report_text) == before
    comfy.page.evaluate("(node => app.canvas.openSubgraph(node.subgraph, node))(app.rootGraph.nodes[0])")
    comfy.page.get_by_role("status").filter(has_text=before[:20]).wait_for()
    comfy.screenshot("report-in-subgraph")
    assert comfy.errors == []


WARNED = "inner.widgets.some(widget => widget.type === 'BIVDIFF_WARNING' && widget.element.textContent === '{}')"


def test_a_warning_finds_its_node_in_a_subgraph(comfy):
    """By the frontend's id and by the server's id."""
    comfy.load(workflow({"type": "BIVDiffModeList", "widgets_values": ["linear, slerp"]}), "inner-warning")
    convert_to_subgraph(comfy)
    update = "app.extensions.find(each => each.name === 'BIVDiff.Warnings').onNodeOutputsUpdated"
    for id_of in ("`${holder.subgraph.id}:${inner.id}`", "`${holder.id}:${inner.id}`"):
        comfy.page.evaluate(f"{update}({{ [{id_of}]: {{ text: [{id_of}] }} }})")
        assert comfy.page.evaluate(WARNED.format("' + " + id_of + " + '"))

    def run(cached: str) -> None:
        """Dispatch the server's events of a run in which one node was cached."""
        for event, more in (("start", ""), ("cached", f", nodes: [{cached}]"), ("success", "")):
            comfy.page.evaluate(f"void app.api.dispatchCustomEvent('execution_{event}', {{ prompt_id: '0' {more} }})")

    run("`${holder.id}:${inner.id}`")
    assert comfy.page.evaluate("inner.widgets.some(widget => widget.type === 'BIVDIFF_WARNING')")
    run("`${inner.id}`")  # another node, outside the subgraph
    assert not comfy.page.evaluate("inner.widgets.some(widget => widget.type === 'BIVDIFF_WARNING')")


def test_older_frontends_have_app_graph_only(comfy):
    comfy.load(workflow({"type": "BIVDiffModeList", "widgets_values": ["linear, slerp"]}), "older")
    found = comfy.page.evaluate(
        """() => {
          const { graph, extensions } = app;
          Object.defineProperty(app, "rootGraph", { value: undefined, configurable: true });
          Object.defineProperty(app, "graph", { value: graph, configurable: true });
          try {
            const named = name => extensions.find(each => each.name === name);
            named("BIVDiff.Warnings").onNodeOutputsUpdated({ 1: { text: ["a word"] } });
            named("BIVDiffLatentReport").onNodeOutputsUpdated({ 1: {} });
            return graph.getNodeById(1).widgets.at(-1).element.textContent;
          } finally {
            delete app.rootGraph;
            delete app.graph;
          }
        }"""
    )
    assert found == "a word"


PREVIEW_EDGE_RANGE = """
new Promise(resolve => app.api.addEventListener("b_preview_with_metadata", async ({ detail }) => {
  const picture = await createImageBitmap(detail.blob);
  const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  context.drawImage(picture, 0, 0);
  const edge = context.getImageData(0, picture.height - 30, picture.width, 20).data;
  resolve([Math.min(...edge), Math.max(...edge.filter((_, i) => i % 4 !== 3))]);
}))
"""


def test_an_inversions_preview_has_a_caption(comfy):
    comfy.load(
        workflow(
            {"type": "EmptyImage", "outputs": {"IMAGE": "IMAGE"}, "widgets_values": [64, 64, 4, 0x4488FF]},
            {**DEMO_MODELS},
            {"type": "VAEEncode", "inputs": {"pixels": "IMAGE", "vae": "VAE"}, "outputs": {"LATENT": "LATENT"}},
            {
                "type": "CLIPTextEncode",
                "inputs": {"clip": "CLIP"},
                "outputs": {"CONDITIONING": "CONDITIONING"},
                "widgets_values": [""],
            },
            {
                "type": "BIVDiffInvertImage",
                "inputs": {"model": "MODEL", "conditioning": "CONDITIONING", "latent": "LATENT"},
                "outputs": {"LATENT": "LATENT"},
                "widgets_values": [10, "ddim_uniform", "ddim", 1.0, "matched", 0],
            },
            {"type": "BIVDiffLatentReport", "inputs": {"latent": "LATENT"}},
            links=[
                [1, 1, 0, 3, 0, "IMAGE"],
                [2, 2, 3, 3, 1, "VAE"],
                [3, 2, 2, 4, 0, "CLIP"],
                [4, 2, 0, 5, 0, "MODEL"],
                [5, 4, 0, 5, 1, "CONDITIONING"],
                [6, 3, 0, 5, 2, "LATENT"],
                [7, 5, 0, 6, 0, "LATENT"],
            ],
        ),
        "noise",
    )
    comfy.page.evaluate(f"void (window.preview = {PREVIEW_EDGE_RANGE})")
    assert comfy.run()["status"]["status_str"] == "success"
    darkest, brightest = comfy.page.evaluate("window.preview")
    assert darkest < 20 and brightest > 235
    comfy.screenshot("noise")
    assert comfy.errors == []


def test_the_blueprint_runs_as_one_node_and_opens(comfy):
    blueprint = json.loads((BLUEPRINTS / "BIVDiff Deflicker.json").read_text(encoding="utf-8"))
    (chain,) = blueprint["nodes"]
    chain["widgets_values"] = ["a yellow sailboat", 0, 3, 3.0, 1.0, 1.0, 1.0, 0.5, "ddim", "shared", 2.0]
    graph = workflow(
        {**CLIP},
        {**COMPONENTS},
        {
            "type": "ImageScale",
            "inputs": {"image": "IMAGE"},
            "outputs": {"IMAGE": "IMAGE"},
            "widgets_values": ["area", 64, 64, "center"],
        },
        {"type": "Canny", "inputs": {"image": "IMAGE"}, "outputs": {"IMAGE": "IMAGE"}, "widgets_values": [0.3, 0.6]},
        {**DEMO_MODELS},
        chain,
        {"type": "PreviewImage", "inputs": {"images": "IMAGE"}},
        links=[
            [1, 1, 0, 2, 0, "VIDEO"],
            [2, 2, 0, 3, 0, "IMAGE"],
            [3, 3, 0, 4, 0, "IMAGE"],
            [4, 4, 0, 6, 6, "IMAGE"],
            [5, 5, 0, 6, 0, "MODEL"],
            [6, 5, 1, 6, 1, "MODEL"],
            [7, 5, 2, 6, 2, "CLIP"],
            [8, 5, 2, 6, 3, "CLIP"],
            [9, 5, 3, 6, 4, "VAE"],
            [10, 5, 4, 6, 5, "CONTROL_NET"],
            [11, 6, 1, 7, 0, "IMAGE"],
        ],
    )
    comfy.load({**graph, "definitions": blueprint["definitions"]}, "blueprint")
    assert comfy.missing_nodes() == []
    unknown = "node.subgraph.nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
    assert comfy.on_node(chain["type"], unknown) == []
    comfy.screenshot("blueprint")
    done = comfy.run()
    assert done["status"]["status_str"] == "success"
    assert len(done["outputs"]["7"]["images"]) == 8
    if comfy.nodes == "vue":  # classic nodes show no previews of nodes inside
        comfy.page.locator('[data-node-id="6"] img').wait_for()
    sampler, borrowed = (
        next(node["inputs"] for node in done["prompt"][2].values() if node["class_type"] == class_type)
        for class_type in ("BIVDiffFrameSampler", "BIVDiffBorrowControl")
    )
    assert [sampler[name] for name in ("steps", "cfg", "frame_noise")] == [3, 3.0, "shared"]
    assert borrowed["weight"] == 2.0
    # An error of an inner node is shown outside the subgraph.
    connect = "graph.getNodeById(5).connect(0, graph.getNodeById(6), 1)"
    comfy.page.evaluate(f"(graph => {{ {connect}; }})(app.rootGraph)")
    assert comfy.run()["status"]["status_str"] == "error"
    find_notice(comfy, "expected a video model").wait_for()
    comfy.screenshot("blueprint-error")
    comfy.on_node(chain["type"], "void app.canvas.openSubgraph(node.subgraph, node)")
    smoother = "app.canvas.graph.nodes.find(node => node.type === 'BIVDiffTemporalSmoother')"
    comfy.page.wait_for_function(smoother)
    comfy.screenshot("blueprint-open")
    assert comfy.errors == []


def test_the_blueprint_for_flow_models_has_an_optional_input(comfy):
    """The second expert is an input of the nodes inside only if it is wired."""
    comfy.load(json.loads((BLUEPRINTS / "BIVDiff Deflicker for Wan and LTX.json").read_text(encoding="utf-8")), "flow")
    wire = """((node, loader) => {
        loader.pos = [-400, 0];
        app.rootGraph.add(loader);
        loader.connect(0, node, node.findInputSlot('low_noise_model'));
    })(app.rootGraph.nodes[0], LiteGraph.createNode('UNETLoader'))"""
    for is_wired in (False, True):
        prompt = comfy.page.evaluate("async () => (await app.graphToPrompt()).output")
        stages = [node["inputs"] for node in prompt.values() if "strength" in node["inputs"]]
        assert [stage["steps"] for stage in stages] == [26] * 3
        assert ["low_noise_model" in stage for stage in stages] == [is_wired] * 3
        comfy.page.wait_for_timeout(500)  # for the screenshot: the frontend draws the nodes
        comfy.screenshot(f"blueprint-flow-{is_wired}")
        comfy.page.evaluate(wire)
    assert comfy.errors == []


def test_the_blueprints_are_offered(server):
    offered = server.request("/global_subgraphs").values()
    names = sorted(entry["name"] for entry in offered if entry["source"] == "custom_node")
    assert names == sorted(path.stem for path in BLUEPRINTS.glob("*.json"))


def test_the_words_that_artists_type_find_a_node(comfy):
    comfy.load(workflow(), "search")
    search, found = comfy.page.get_by_role("combobox", name="Add a node"), comfy.page.get_by_role("option")
    while not search.is_visible():  # a busy page takes a double click for two clicks
        comfy.page.mouse.dblclick(800, 450)
        comfy.page.wait_for_timeout(1000)
    for words, node in {
        "flicker": "Temporal Report",
        "steady": "Video Temporal Smoother",
        "style video": "Frame-wise Image Sampler",
        "upscale video": "Frame-wise Image Sampler",
        "unsample": "DDIM Inverse (Image)",
        "wan": "Video Temporal Smoother",
        "qwen": "Frame-wise Image Sampler",
        "deflicker": "BIVDiff Deflicker for Wan and LTX",
    }.items():
        search.fill(words)
        found.filter(has_text=node).first.wait_for(state="attached")
    assert found.first.inner_text().startswith("BIVDiff Deflicker")
    comfy.screenshot("search")
    search.press("Escape")


def test_a_list_of_words_can_be_linked_to_a_combo_and_to_the_labels(comfy):
    comfy.load(
        workflow(
            {"type": "BIVDiffModeList", "outputs": {"modes": "COMBO"}, "widgets_values": ["linear, slerp"]},
            *blend("custom", 0.5)["nodes"],
            {"type": "BIVDiffSweepGrid"},
        ),
        "lists",
    )
    wire = "([to, name]) => { const [list, ...rest] = app.rootGraph.nodes;"
    wire += " const node = rest.find(node => node.type === to); list.connect(0, node, node.findInputSlot(name)); }"
    for target in (["BIVDiffMixedInversion", "mode"], ["BIVDiffSweepGrid", "labels"]):
        comfy.page.evaluate(wire, target)
    comfy.page.wait_for_timeout(500)  # for the screenshot: the frontend draws the links
    comfy.screenshot("lists")
    prompt = comfy.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt["2"]["inputs"]["mode"] == prompt["3"]["inputs"]["labels"] == ["1", 0]
    assert prompt["1"]["inputs"]["modes"] == "linear, slerp"
    assert comfy.errors == []


def test_help_opens_from_the_node(comfy):
    comfy.load(blend("custom", 0.5), "help")
    comfy.on_node("BIVDiffMixedInversion", "app.canvas.selectNode(node)")
    comfy.page.get_by_test_id("info-button").click()
    comfy.page.get_by_text("Mixes the frames inverted by the image model (image branch)").wait_for()
    picture = comfy.page.locator("img[src*='BIVDiffMixedInversion.jpg']")
    comfy.page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    comfy.screenshot("help")
