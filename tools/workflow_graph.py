"""Build workflows in Python: nodes with wires, laid out in labelled groups.

Slot names, types and the order of widgets come from /object_info of a running ComfyUI.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tools.model_downloads import DOWNLOADS

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
MUTED_MODE = 2
"""The frontend's mode of a muted node (LGraphEventMode.NEVER)."""
WIDTH, GAP = 330, 50
TITLE, SLOT, WIDGET = 30, 22, 26
EXTRA_HEIGHT = {"LoadVideo": 340, "SaveVideo": 360, "PreviewImage": 260, "BIVDiffCompareVideos": 460}
EXTRA_HEIGHT |= dict.fromkeys(("BIVDiffLatentReport", "BIVDiffTemporalReport"), 640)
"""Height of the content below a node's widgets, in pixels."""


class OutputSlot(NamedTuple):
    """One output of a node."""

    node: GraphNode
    slot: int


@dataclass
class GraphNode:
    """A node of a graph; ``node["name"]`` is an output. A node as an input means its first matching output."""

    id: int
    class_type: str
    schema: dict
    title: str
    position: tuple[int, int]
    width: int
    values: dict[str, object] = field(default_factory=dict)
    """Widget values, including widgets that a wire overrides."""
    wires: dict[str, OutputSlot] = field(default_factory=dict)
    muted: bool = False
    collapsed: bool = False

    def __getitem__(self, name: str) -> OutputSlot:
        return OutputSlot(self, self.schema["output_name"].index(name))

    def output_for(self, kind: str) -> OutputSlot:
        """The first output of a type."""
        return OutputSlot(self, self.schema["output"].index(kind))

    def inputs(self) -> dict[str, list]:
        """The specifications of its inputs by name, required ones first."""
        groups = self.schema["input"]
        return {**groups.get("required", {}), **groups.get("optional", {})}

    def height(self) -> int:
        """Approximate height in the frontend, in pixels, when it is not collapsed."""
        specs = self.inputs()
        widgets = [spec for spec in specs.values() if is_widget(spec)]
        text = 90 * sum(1 for spec in widgets if input_options(spec).get("multiline"))
        slots = max(len(specs) - len(widgets), len(self.schema["output"]))
        return SLOT * slots + WIDGET * len(widgets) + text + EXTRA_HEIGHT.get(self.class_type, 0) + 10


def input_options(spec: list) -> dict:
    """The options of an input's specification (its second element)."""
    return spec[1] if len(spec) > 1 else {}


def input_type(spec: list) -> str:
    """The type of an input."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def is_widget(spec: list) -> bool:
    """Whether an input has a widget and is not only a socket."""
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not input_options(spec).get("forceInput")


def default_value(spec: list) -> object:
    """The initial value of a widget."""
    kind, options = spec[0], input_options(spec)
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    choices = kind if isinstance(kind, list) else options.get("options", [""])
    return options.get("default", choices[0])


def grow_inputs(schema: dict, values: dict[str, object]) -> tuple[dict, dict[str, object]]:
    """Replace inputs that grow (Batch Images): one for each item of the value, which is a list."""
    required, grown = {}, dict(values)
    for name, spec in schema["input"].get("required", {}).items():
        if spec[0] != "COMFY_AUTOGROW_V3":
            required[name] = spec
            continue
        template = input_options(spec)["template"]
        (kind,) = template["input"]["required"].values()
        for i, value in enumerate(grown.pop(name)):
            required[f"{name}.{template['prefix']}{i}"] = kind
            grown[f"{name}.{template['prefix']}{i}"] = value
    return {**schema, "input": {**schema["input"], "required": required}}, grown


class Link(NamedTuple):
    """A wire as the frontend saves it: a list in a workflow, a dict in a subgraph."""

    id: int
    origin_id: int
    origin_slot: int
    target_id: int
    target_slot: int
    type: str


class WorkflowGraph:
    """Builds a workflow: nodes below one another in columns, columns side by side in labelled groups.

    ``note`` is the text that an artist reads first, to the left of the graph, or to its right if ``note_is_right``.

    Args:
        name: name of the workflow and of the files that it saves.
        object_info: the schemas of all nodes.
        demo: build the version for the demo models.
    """

    FIRST_NODE_ID = 1

    def __init__(self, name: str, object_info: dict, demo: bool) -> None:
        self.name = name
        self.object_info = object_info
        self.demo = demo
        self.nodes: list[GraphNode] = []
        self.note = ""
        self.note_width = 420
        self.note_is_right = False
        self.groups: list[dict] = []
        self.definitions: dict[str, dict] = {}
        self.previews: dict[str, list[dict]] = {}
        self.width = WIDTH
        self.x = 0
        self.y = 0
        self.bottom = 0

    def choose(self, real: object, demo: object) -> object:
        """``demo`` in the version for the demo models, else ``real``."""
        return demo if self.demo else real

    def group(self, title: str, colour: str, width: int = WIDTH, muted: bool = False) -> None:
        """Start a group of columns to the right of the last group. The nodes of a muted group do not run."""
        left = self.groups[-1]["right"] + 30 if self.groups else 20
        self.groups.append({"title": title, "color": colour, "left": left, "muted": muted})
        self._start_column(left + 20, width)

    def column(self, width: int = WIDTH) -> None:
        """Start a column in the group."""
        self._start_column(self.x + self.width + GAP, width)

    def _start_column(self, x: int, width: int) -> None:
        self.x, self.y, self.width = x, 90, width
        self.groups[-1]["right"] = x + width + 20

    def add(self, class_type: str, title: str = "", collapsed: bool = False, **values: object) -> GraphNode:
        """Add a node below the last one.

        A value is a setting, an output, a node (its first matching output), or a list for inputs that grow.

        Raises:
            ValueError: if the node has no such input, or a required socket has no wire.
        """
        schema, values = grow_inputs(self.object_info[class_type], values)
        node = GraphNode(len(self.nodes) + self.FIRST_NODE_ID, class_type, schema, title, (self.x, self.y), self.width)
        node.muted, node.collapsed = self.groups[-1]["muted"], collapsed
        specs = node.inputs()
        if unknown := set(values) - set(specs):
            raise ValueError(f"{class_type} has no input {', '.join(unknown)}")
        for name, spec in specs.items():
            value = values.get(name)
            if isinstance(value, GraphNode):
                value = value.output_for(spec[0])
            if isinstance(value, OutputSlot):
                node.wires[name] = value
                value = None
            if is_widget(spec):
                node.values[name] = default_value(spec) if value is None else value
            elif name not in node.wires and name in schema["input"].get("required", {}):
                raise ValueError(f"{class_type}: nothing is wired to {name}")
        self.nodes.append(node)
        gap = GAP // 2 if collapsed else GAP
        self.y += TITLE + (0 if collapsed else node.height()) + gap
        self.bottom = max(self.bottom, self.y - gap)
        return node

    def ui(self) -> dict:
        """The workflow as the frontend saves it."""
        nodes, links = self._ui_nodes()
        if self.note:
            nodes.append(self._ui_note(len(nodes)))
        saved = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": [list(link) for link in links],
            "groups": self._ui_groups(),
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        return {**saved, "definitions": {"subgraphs": list(self.definitions.values())}} if self.definitions else saved

    def _ui_nodes(self) -> tuple[list[dict], list[Link]]:
        links: list[Link] = []
        nodes = [self._ui_node(node, order, links) for order, node in enumerate(self.nodes)]
        for link in links:
            if link.origin_id > 0:  # not an input of a subgraph
                nodes[link.origin_id - self.FIRST_NODE_ID]["outputs"][link.origin_slot]["links"].append(link.id)
        return nodes, links

    def _ui_groups(self) -> list[dict]:
        return [
            {
                "id": number,
                "title": group["title"],
                "bounding": [group["left"], 10, group["right"] - group["left"], self.bottom],
                "color": group["color"],
                "font_size": 24,
                "flags": {},
            }
            for number, group in enumerate(self.groups, start=1)
        ]

    def _ui_node(self, node: GraphNode, order: int, links: list[Link]) -> dict:
        is_subgraph = node.class_type in self.definitions
        inputs, widgets = [], []
        for name, spec in node.inputs().items():
            wire = node.wires.get(name)
            if is_widget(spec):
                widgets += self._widget_values(node.values[name], spec)
            if wire or is_subgraph or not is_widget(spec):
                socket = {"name": name, "type": input_type(spec), "link": None}
                if name in node.schema["input"].get("optional", {}):
                    socket["shape"] = 7
                if is_widget(spec):
                    socket["widget"] = {"name": name}
                if wire:
                    socket["link"] = len(links) + 1
                    from_kind = wire.node.schema["output"][wire.slot]
                    links.append(Link(socket["link"], wire.node.id, wire.slot, node.id, len(inputs), from_kind))
                inputs.append(socket)
        outputs = [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(node.schema["output_name"], node.schema["output"], strict=True)
        ]
        properties: dict[str, object] = {"Node name for S&R": node.class_type}
        if is_subgraph:
            properties = {"previewExposures": self.previews[node.class_type]}
        if models := [DOWNLOADS[value] for value in node.values.values() if value in DOWNLOADS]:
            properties["models"] = models
        saved = {
            "id": node.id,
            "type": node.class_type,
            "pos": list(node.position),
            "size": [node.width, node.height()],
            "flags": {"collapsed": True} if node.collapsed else {},
            "order": order,
            "mode": MUTED_MODE if node.muted else 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": widgets,
        }
        return {**saved, "title": node.title} if node.title else saved

    def _ui_note(self, order: int) -> dict:
        paragraphs = filter(None, re.sub(r"]\(.+?\)", "", self.note).splitlines())  # a link shows only its text
        height = 40 + sum(5 + 17 * math.ceil(6.6 * len(text) / (self.note_width - 50)) for text in paragraphs)
        return {
            "id": order + 1,
            "type": "MarkdownNote",
            "pos": [self.groups[-1]["right"] + 20 if self.note_is_right else -20 - self.note_width, 90],
            "size": [self.note_width, height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Read me first",
            "properties": {},
            "widgets_values": [self.note],
            "color": "#432",
            "bgcolor": "#653",
        }

    @staticmethod
    def _widget_values(value: object, spec: list) -> list:
        """A widget's value, followed by the values of the widgets that the frontend adds after it."""
        options = input_options(spec)
        if spec[0] == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(option for option in options["options"] if option["key"] == value)
            return [value, *map(default_value, chosen["inputs"].get("required", {}).values())]
        if options.get("control_after_generate"):
            return [value, "fixed"]
        return [value, "image"] if options.get("video_upload") else [value]


GraphBuilder = Callable[[WorkflowGraph], None]
