// A node's own widget for what the node has put out, in classic and in Vue nodes.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode } from "./graph.js";

/** A DOM element with its properties and style set. */
export function element(tag, properties, style) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.style, style);
  return made;
}

/** The picture that a saved temporary file holds. */
export function picture(file) {
  const image = new Image();
  image.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
  return image;
}

/** Words on a node, white on a colour. */
export function statusBox(background) {
  return element(
    "div",
    { role: "status" },
    {
      padding: "8px",
      borderRadius: "6px",
      fontSize: "12px",
      color: "white",
      background,
      whiteSpace: "pre-wrap",
      overflow: "auto",
    },
  );
}

/**
 * Give every node of a type a widget.
 *
 * @param {string} type the node's id
 * @param {[number, number]} minSize of the node
 * @param {(node) => {element: HTMLElement, show: (output) => void, remove?: () => void}} make the widget of one node
 */
export function showOutput(type, minSize, make) {
  app.registerExtension({
    name: type,

    nodeCreated(node) {
      if (node.comfyClass !== type) return;
      const shown = make(node);
      const widget = node.addDOMWidget("output", `${type}_OUTPUT`, shown.element, {
        serialize: false, // neither in the prompt
        getMinHeight: () => minSize[1] - 120,
      });
      widget.serialize = false; // nor in the workflow
      node.setSize(node.size.map((side, i) => Math.max(side, minSize[i])));

      const { onExecuted, onRemoved } = node;
      node.onExecuted = function (output) {
        onExecuted?.call(this, output);
        shown.show(output);
      };
      node.onRemoved = function () {
        onRemoved?.call(this);
        shown.remove?.();
      };
    },

    /** Another workflow's tab was opened, or this one's again. */
    onNodeOutputsUpdated(outputs) {
      for (const [id, output] of Object.entries(outputs)) {
        const node = findNode(id);
        if (node?.comfyClass === type) node.onExecuted(output);
      }
    },
  });
}
