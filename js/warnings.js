// Shows the warnings of nodes on them, until the next run.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode } from "./graph.js";
import { statusBox } from "./output_widget.js";

const HEIGHT = 90;
const warningWidgets = new Map(); // by node
let warningCount = 0;

function showWarning(node, text) {
  let widget = warningWidgets.get(node);
  if (!widget) {
    // Vue nodes do not show a widget whose name was used before.
    const options = { serialize: false, getMinHeight: () => HEIGHT };
    widget = node.addDOMWidget(`warning ${(warningCount += 1)}`, "BIVDIFF_WARNING", statusBox("#6b4a10"), options);
    widget.serialize = false;
    node.setSize(node.computeSize().map((side, i) => Math.max(side, node.size[i])));
    warningWidgets.set(node, widget);
  }
  widget.element.textContent = text;
  widget.stale = false;
}

function keepCachedWarnings(ids) {
  const cached = new Set(ids.map(findNode));
  for (const [node, widget] of warningWidgets) if (cached.has(node)) widget.stale = false;
}

function clearStale() {
  for (const [node, widget] of warningWidgets) {
    if (!widget.stale) continue;
    node.removeWidget(widget);
    warningWidgets.delete(node);
  }
}

function showOutputWarnings(node, output) {
  if (node?.comfyClass?.startsWith("BIVDiff") && output?.text?.length) showWarning(node, output.text.join("\n"));
}

app.registerExtension({
  name: "BIVDiff.Warnings",

  // After a run, remove the warnings that were not repeated; cached nodes keep theirs.
  setup() {
    api.addEventListener("execution_start", () => warningWidgets.forEach((widget) => (widget.stale = true)));
    api.addEventListener("execution_cached", ({ detail }) => keepCachedWarnings(detail.nodes));
    api.addEventListener("execution_success", clearStale);
    api.addEventListener("bivdiff.warning", ({ detail }) => showWarning(findNode(detail.node), detail.text));
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("BIVDiff")) return;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      showOutputWarnings(this, output);
    };
  },

  /** Called when a workflow's tab is opened: show its warnings again. */
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) showOutputWarnings(findNode(id), output);
  },
});
