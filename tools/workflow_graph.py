"""The language that workflows are described in: nodes wired to one another, laid out in labelled groups.

Slot names, types and the order of widgets come from a running ComfyUI's /object_info.
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
"""The page's number for it (LGraphEventMode.NEVER)."""
WIDTH, GAP = 330, 50
TITLE, SLOT, WIDGET = 30, 22, 26
EXTRA_HEIGHT = {"LoadVideo": 340, "SaveVideo": 360, "PreviewImage": 260, "BIVDiffCompareVideos": 460}
EXTRA_HEIGHT |= dict.fromkeys(("BIVDiffLatentReport", "BIVDiffTemporalReport"), 640)
"""What a node shows below its widgets, in pixels."""


class OutputSlot(NamedTuple):
    """One output of a node."""

    node: GraphNode
    slot: int


@dataclass
class GraphNode:
    """A node of a graph; ``node["name"]`` is one of its outputs, the node itself its first output that fits."""

    number: int
    class_type: str
    schema: dict
    title: str
    at: tuple[int, int]
    width: int
    values: dict[str, object] = field(default_factory=dict)
    """What its widgets show, also those that a wire sets."""
    wires: dict[str, OutputSlot] = field(default_factory=dict)
    muted: bool = False

    def __getitem__(self, name: str) -> OutputSlot:
        return OutputSlot(self, self.schema["output_name"].index(name))

    def output_for(self, kind: str) -> OutputSlot:
        """The first output of a type."""
        return OutputSlot(self, self.schema["output"].index(kind))

    def inputs(self) -> dict[str, list]:
        """Its inputs' specifications by name, required ones first."""
        groups = self.schema["input"]
        return {**groups.get("required", {}), **groups.get("optional", {})}

    def height(self) -> int:
        """About what the frontend gives it, in pixels."""
        specs = self.inputs()
        widgets = [spec for spec in specs.values() if is_widget(spec)]
        text = 90 * sum(1 for spec in widgets if input_options(spec).get("multiline"))
        slots = max(len(specs) - len(widgets), len(self.schema["output"]))
        return SLOT * slots + WIDGET * len(widgets) + text + EXTRA_HEIGHT.get(self.class_type, 0) + 10


def input_options(spec: list) -> dict:
    """The second half of an input's specification."""
    return spec[1] if len(spec) > 1 else {}


def input_type(spec: list) -> str:
    """The type of an input."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def is_widget(spec: list) -> bool:
    """Whether an input has a control of its own, as opposed to a socket alone."""
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not input_options(spec).get("forceInput")


def default_value(spec: list) -> object:
    """What a widget shows before anyone has touched it."""
    kind, rest = spec[0], input_options(spec)
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return rest["options"][0]["key"]
    choices = kind if isinstance(kind, list) else rest.get("options", [""])
    return rest.get("default", choices[0])


class Link(NamedTuple):
    """A wire as the frontend saves it: as a list in a workflow, with its names in a subgraph."""

    id: int
    origin_id: int
    origin_slot: int
    target_id: int
    target_slot: int
    type: str


class WorkflowGraph:
    """A workflow in the making: nodes go below one another, columns side by side, in labelled groups.

    ``note`` is what an artist reads first: the page opens on it and on what lies right of it, at ``zoom``.

    Args:
        name: of the workflow and of the files that it saves.
        object_info: the schemas of all nodes.
        demo: for the demo models, not for an artist's own.
    """

    def __init__(self, name: str, object_info: dict, demo: bool) -> None:
        self.name = name
        self.object_info = object_info
        self.demo = demo
        self.nodes: list[GraphNode] = []
        self.note = ""
        self.note_width = 420
        self.zoom = 0.7
        self.groups: list[dict] = []
        self.definitions: dict[str, dict] = {}
        self.width = WIDTH
        self.x = 0
        self.y = 0
        self.bottom = 0

    def choose(self, real: object, demo: object) -> object:
        """One of two settings."""
        return demo if self.demo else real

    def group(self, title: str, colour: str, width: int = WIDTH, muted: bool = False) -> None:
        """Begin a group of columns, right of what there is. A muted one does not run until an artist unmutes it."""
        left = self.groups[-1]["right"] + 30 if self.groups else 20
        self.groups.append({"title": title, "color": colour, "left": left, "muted": muted})
        self._begin(left + 20, width)

    def column(self, width: int = WIDTH) -> None:
        """Begin a column in the group."""
        self._begin(self.x + self.width + GAP, width)

    def _begin(self, x: int, width: int) -> None:
        self.x, self.y, self.width = x, 90, width
        self.groups[-1]["right"] = x + width + 20

    def add(self, class_type: str, title: str = "", **values: object) -> GraphNode:
        """A node below the last one; values are settings, outputs, or nodes whose first fitting output is meant.

        Raises:
            ValueError: an input that the node does not have, or a socket without a wire.
        """
        schema = self.object_info[class_type]
        node = GraphNode(len(self.nodes) + 1, class_type, schema, title, (self.x, self.y), self.width)
        node.muted = self.groups[-1]["muted"]
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
        self.y += node.height() + TITLE + GAP
        self.bottom = max(self.bottom, self.y - GAP)
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
            "extra": {
                "ds": {"scale": self.zoom, "offset": [self.note_width + 20 + round(80 / self.zoom), 95]},
                "bivdiffTemplate": True,  # for js/templates.js
            },
            "version": 0.4,
        }
        return {**saved, "definitions": {"subgraphs": list(self.definitions.values())}} if self.definitions else saved

    def _ui_nodes(self) -> tuple[list[dict], list[Link]]:
        links: list[Link] = []
        nodes = [self._ui_node(node, order, links) for order, node in enumerate(self.nodes)]
        for link in links:
            if link.origin_id > 0:  # not an input of a subgraph
                nodes[link.origin_id - 1]["outputs"][link.origin_slot]["links"].append(link.id)
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
        opens = node.class_type in self.definitions
        inputs, widgets = [], []
        for name, spec in node.inputs().items():
            wire = node.wires.get(name)
            if is_widget(spec):
                widgets += self._widget_values(node.values[name], spec)
            if wire or opens or not is_widget(spec):
                socket = {"name": name, "type": input_type(spec), "link": None}
                if name in node.schema["input"].get("optional", {}):
                    socket["shape"] = 7
                if is_widget(spec):
                    socket["widget"] = {"name": name}
                if wire:
                    socket["link"] = len(links) + 1
                    from_kind = wire.node.schema["output"][wire.slot]
                    links.append(Link(socket["link"], wire.node.number, wire.slot, node.number, len(inputs), from_kind))
                inputs.append(socket)
        outputs = [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(node.schema["output_name"], node.schema["output"], strict=True)
        ]
        properties: dict[str, object] = {} if opens else {"Node name for S&R": node.class_type}
        if models := [DOWNLOADS[value] for value in node.values.values() if value in DOWNLOADS]:
            properties["models"] = models
        made = {
            "id": node.number,
            "type": node.class_type,
            "pos": list(node.at),
            "size": [node.width, node.height()],
            "flags": {},
            "order": order,
            "mode": MUTED_MODE if node.muted else 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": widgets,
        }
        return {**made, "title": node.title} if node.title else made

    def _ui_note(self, order: int) -> dict:
        paragraphs = filter(None, re.sub(r"]\(.+?\)", "", self.note).splitlines())  # links show their words alone
        height = 40 + sum(5 + 17 * math.ceil(6.6 * len(text) / (self.note_width - 50)) for text in paragraphs)
        return {
            "id": order + 1,
            "type": "MarkdownNote",
            "pos": [-20 - self.note_width, 90],
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
        """A widget's value with those of what the frontend puts after it: a button's, a choice's own widgets'."""
        rest = input_options(spec)
        if spec[0] == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(option for option in rest["options"] if option["key"] == value)
            return [value, *map(default_value, chosen["inputs"].get("required", {}).values())]
        if rest.get("control_after_generate"):
            return [value, "fixed"]
        return [value, "image"] if rest.get("video_upload") else [value]


Drawing = Callable[[WorkflowGraph], None]
