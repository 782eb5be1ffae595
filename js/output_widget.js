// A widget on a node that shows the node's output, in classic and in Vue nodes.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode } from "./graph.js";

/** Create a DOM element with properties and a style. */
export function createElement(tag, properties, style = {}) {
  const created = Object.assign(document.createElement(tag), properties);
  Object.assign(created.style, style);
  return created;
}

/** Create an img or video element of a temporary file that the node saved. */
export function loadFile(tag, file) {
  return createElement(tag, { src: api.apiURL(`/view?${new URLSearchParams(file)}`) });
}

/** A text box on a node, white on a background colour. */
export function statusBox(background) {
  return createElement(
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
 * Add an output widget to every node of a type.
 *
 * @param {string} type the node type's id
 * @param {[number, number]} minSize of the node
 * @param {(node) => {element: HTMLElement, show: (output) => void, remove?: () => void}} makeContent
 *   creates the content of one node's widget
 */
export function addOutputWidget(type, minSize, makeContent) {
  app.registerExtension({
    name: type,

    nodeCreated(node) {
      if (node.comfyClass !== type) return;
      const content = makeContent(node);
      const widget = node.addDOMWidget("output", `${type}_OUTPUT`, content.element, {
        serialize: false, // not in the prompt
        getMinHeight: () => minSize[1] - 120,
      });
      widget.serialize = false; // nor in the workflow
      node.setSize(node.size.map((side, i) => Math.max(side, minSize[i])));

      const { onExecuted, onRemoved } = node;
      node.onExecuted = function (output) {
        onExecuted?.call(this, output);
        content.show(output);
      };
      node.onRemoved = function () {
        onRemoved?.call(this);
        content.remove?.();
      };
    },

    /** Called when a workflow's tab is opened: show its outputs again. */
    onNodeOutputsUpdated(outputs) {
      for (const [id, output] of Object.entries(outputs)) {
        const node = findNode(id);
        if (node?.comfyClass === type) node.onExecuted(output);
      }
    },
  });
}
