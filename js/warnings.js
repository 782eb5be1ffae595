// What a node of the pack warns of, on the node itself until the next run.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode } from "./graph.js";
import { statusBox } from "./output_widget.js";

const HEIGHT = 90;
const shown = new Map(); // widgets by node
let made = 0;

function show(node, text) {
  let widget = shown.get(node);
  if (!widget) {
    // Vue nodes do not show a widget again whose name they had.
    const options = { serialize: false, getMinHeight: () => HEIGHT };
    widget = node.addDOMWidget(`warning ${(made += 1)}`, "BIVDIFF_WARNING", statusBox("#6b4a10"), options);
    widget.serialize = false;
    node.setSize(node.computeSize().map((side, i) => Math.max(side, node.size[i])));
    shown.set(node, widget);
  }
  widget.element.textContent = text;
  widget.stale = false;
}

function keep(ids) {
  const kept = new Set(ids.map(findNode));
  for (const [node, widget] of shown) if (kept.has(node)) widget.stale = false;
}

function clearStale() {
  for (const [node, widget] of shown) {
    if (!widget.stale) continue;
    node.removeWidget(widget);
    shown.delete(node);
  }
}

function warn(node, output) {
  if (node?.comfyClass?.startsWith("BIVDiff") && output?.text?.length) show(node, output.text.join("\n"));
}

app.registerExtension({
  name: "BIVDiff.Warnings",

  // A run clears what its nodes do not say again; those whose results are kept say nothing anew.
  setup() {
    api.addEventListener("execution_start", () => shown.forEach((widget) => (widget.stale = true)));
    api.addEventListener("execution_cached", ({ detail }) => keep(detail.nodes));
    api.addEventListener("execution_success", clearStale);
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("BIVDiff")) return;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      warn(this, output);
    };
  },

  /** Another workflow's tab was opened, or this one's again. */
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) warn(findNode(id), output);
  },
});
