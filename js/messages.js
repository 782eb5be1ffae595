// What a node of the pack warns of or failed with, on the node itself until the next run. The page's own notice of an
// error shows its words only after a click.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { statusBox } from "./output_widget.js";

const HEIGHT = 90;
const COLORS = { warning: "#6b4a10", error: "#7a1f1f" };
const shown = new Map(); // widgets by node
let made = 0;

function show(node, text, kind) {
  let widget = shown.get(node);
  if (!widget) {
    // Vue nodes do not show a widget again whose name they had.
    const options = { serialize: false, getMinHeight: () => HEIGHT };
    widget = node.addDOMWidget(`message ${(made += 1)}`, "BIVDIFF_MESSAGE", statusBox(), options);
    widget.serialize = false;
    node.setSize(node.computeSize().map((side, i) => Math.max(side, node.size[i])));
    shown.set(node, widget);
  }
  widget.element.textContent = text;
  widget.element.style.background = COLORS[kind];
  widget.kind = kind;
  widget.stale = false;
}

function keep(ids) {
  const kept = new Set(ids.map((id) => String(id).split(":").pop())); // behind the ids of the subgraphs that hold it
  for (const [node, widget] of shown) if (widget.kind === "warning" && kept.has(String(node.id))) widget.stale = false;
}

function clearStale() {
  for (const [node, widget] of shown) {
    if (!widget.stale) continue;
    node.removeWidget(widget);
    shown.delete(node);
  }
}

function warn(node, output) {
  if (node?.comfyClass?.startsWith("BIVDiff") && output?.text) show(node, output.text.join("\n"), "warning");
}

/**
 * The nodes that an execution id such as "8:3" leads through: those of subgraphs, and the one meant.
 * Vue nodes of subgraphs show none of our words, but an error button of their own.
 */
function path(id) {
  const nodes = [];
  for (const key of String(id).split(":")) nodes.push((nodes.at(-1)?.subgraph ?? app.rootGraph).getNodeById(key));
  return nodes;
}

function fail({ node_id, node_type, exception_message }) {
  clearStale();
  const nodes = path(node_id);
  if (!node_type.startsWith("BIVDiff") || nodes.at(-1)?.comfyClass !== node_type) return; // another workflow is open
  for (const node of nodes) show(node, exception_message.trim(), "error");
}

app.registerExtension({
  name: "BIVDiff.Messages",

  // A run clears what its nodes do not say again; those whose results are kept say nothing anew.
  setup() {
    api.addEventListener("execution_start", () => shown.forEach((widget) => (widget.stale = true)));
    api.addEventListener("execution_cached", ({ detail }) => keep(detail.nodes));
    api.addEventListener("execution_success", clearStale);
    api.addEventListener("execution_error", ({ detail }) => fail(detail));
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
    for (const [id, output] of Object.entries(outputs)) warn(app.rootGraph.getNodeById(id), output);
  },
});
