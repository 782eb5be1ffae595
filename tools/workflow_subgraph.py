"""Subgraphs: a graph that is one node in other graphs, in the frontend's format."""

from __future__ import annotations

import uuid

from tools.workflow_graph import (
    GraphNode,
    Link,
    OutputSlot,
    WorkflowGraph,
    default_value,
    input_options,
    input_type,
    is_widget,
)

INPUT_NODE_ID, OUTPUT_NODE_ID = -10, -20
"""Node ids that the frontend gives to the inputs and the outputs of a subgraph."""
PREVIEW = "$$canvas-image-preview"
"""The frontend's name of a sampler's preview."""


class Subgraph(WorkflowGraph):
    """A graph with inputs and outputs. Its inputs are sockets, or widgets that set widgets of nodes inside."""

    FIRST_NODE_ID = 101
    """Above the ids of the graph around it: the frontend renumbers nodes with equal ids, and then finds no previews."""

    def __init__(self, name: str, object_info: dict, demo: bool, description: str) -> None:
        super().__init__(name, object_info, demo)
        self.id = self._uuid("")
        self.description = description
        self.specs: dict[str, list] = {}
        self.optional: set[str] = set()
        self.input_node = GraphNode(INPUT_NODE_ID, "", {"output": [], "output_name": []}, "", (0, 0), 0)
        self.output_slots: dict[str, OutputSlot] = {}
        self.previewed: list[GraphNode] = []

    def socket(self, name: str, kind: str, optional: bool = False) -> OutputSlot:
        """Append a socket to the inputs; one that is optional comes after all others."""
        if optional:
            self.optional.add(name)
        return self._add_input(name, [kind])

    def widget(self, name: str, value: object, *inside: tuple[GraphNode, str]) -> None:
        """Append a widget to the inputs; it sets widgets of nodes inside."""
        first, first_input = inside[0]
        spec = first.inputs()[first_input]
        options = {**input_options(spec), "default": value, "control_after_generate": False}
        wire = self._add_input(name, [spec[0], options])
        for node, input_name in inside:
            node.values[input_name], node.wires[input_name] = value, wire

    def output(self, name: str, node: GraphNode) -> None:
        """Append an output: the first output of a node inside."""
        self.output_slots[name] = OutputSlot(node, 0)

    def preview(self, node: GraphNode) -> None:
        """Show the live preview of a node inside on this node; the frontend does so for Vue nodes only."""
        self.previewed.append(node)

    def add_definition(self, graph: WorkflowGraph) -> None:
        """Add this subgraph to a graph, whose ``add`` then accepts its id."""
        graph.object_info = {**graph.object_info, self.id: self.schema()}
        graph.definitions[self.id] = self.definition()
        graph.previews[self.id] = [
            {"name": PREVIEW, "sourceNodeId": str(node.id), "sourcePreviewName": PREVIEW} for node in self.previewed
        ]

    def blueprint(self) -> dict:
        """A workflow with only this node, as the node library needs it."""
        alone = WorkflowGraph(self.name, self.object_info, self.demo)
        self.add_definition(alone)
        values = {name: default_value(spec) for name, spec in self.specs.items() if is_widget(spec)}
        alone.nodes.append(GraphNode(1, self.id, self.schema(), self.name, (0, 0), 400, values))
        return {**alone.ui(), "extra": {"BlueprintDescription": self.description}}

    def schema(self) -> dict:
        """The schema of the node, as in /object_info."""
        kinds = [wire.node.schema["output"][wire.slot] for wire in self.output_slots.values()]
        optional = {name: spec for name, spec in self.specs.items() if name in self.optional}
        required = {name: spec for name, spec in self.specs.items() if name not in self.optional}
        inputs = {"required": required, "optional": optional}
        return {"input": inputs, "output": kinds, "output_name": list(self.output_slots)}

    def definition(self) -> dict:
        """The definition of the subgraph that a workflow stores beside its nodes."""
        nodes, links = self._ui_nodes()
        kinds = dict(zip(self.output_slots, self.schema()["output"], strict=True))
        for slot, (name, kind) in enumerate(kinds.items()):
            wire = self.output_slots[name]
            links.append(Link(len(links) + 1, wire.node.id, wire.slot, OUTPUT_NODE_ID, slot, kind))
            nodes[wire.node.id - self.FIRST_NODE_ID]["outputs"][wire.slot]["links"].append(len(links))
        right = self.groups[-1]["right"] + 80
        starts = [(link.origin_id, link.origin_slot) for link in links]
        ends = [(link.target_id, link.target_slot) for link in links]
        return {
            "id": self.id,
            "version": 1,
            "state": {
                "lastGroupId": len(self.groups),
                "lastNodeId": nodes[-1]["id"],
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUT_NODE_ID, "bounding": [-260, 90, 130, 40 + 20 * len(self.specs)]},
            "outputNode": {"id": OUTPUT_NODE_ID, "bounding": [right - 20, 90, 120, 40 + 20 * len(kinds)]},
            "inputs": self._ui_slots(
                INPUT_NODE_ID, {name: input_type(spec) for name, spec in self.specs.items()}, starts, -150
            ),
            "outputs": self._ui_slots(OUTPUT_NODE_ID, kinds, ends, right),
            "widgets": [],
            "nodes": nodes,
            "links": [link._asdict() for link in links],
            "groups": self._ui_groups(),
            "extra": {},
            "category": "Video generation and editing/BIVDiff",
            "description": self.description,
        }

    def _add_input(self, name: str, spec: list) -> OutputSlot:
        self.specs[name] = spec
        self.input_node.schema["output"].append(input_type(spec))
        self.input_node.schema["output_name"].append(name)
        return self.input_node[name]

    def _ui_slots(self, side: int, kinds: dict[str, str], ends: list[tuple[int, int]], x: int) -> list[dict]:
        return [
            {
                "id": self._uuid(f"{side}/{name}"),
                "name": name,
                "type": kind,
                "linkIds": [link for link, end in enumerate(ends, start=1) if end == (side, slot)],
                "pos": [x, 110 + 20 * slot],
            }
            for slot, (name, kind) in enumerate(kinds.items())
        ]

    def _uuid(self, part: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"subgraph/{self.name}/{self.demo}/{part}"))
