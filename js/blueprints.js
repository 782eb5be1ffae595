// The controls of a blueprint show the tooltips of the controls inside it that they set.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let translations; // of all packs, by locale

/** The tooltip of a node's input in the page's language, or else in English. */
async function readTooltip(node, name) {
  translations ??= api.fetchApi("/i18n").then((answer) => answer.json());
  const translated = (await translations)[app.extensionManager.setting.get("Comfy.Locale")]?.nodeDefs;
  return translated?.[node.type]?.inputs?.[name]?.tooltip ?? node.constructor.nodeData?.inputs[name]?.tooltip;
}

async function addTooltips(node) {
  for (const { name, linkIds } of node.subgraph.inputs) {
    const widget = node.widgets.find((each) => each.name === name);
    const link = node.subgraph.links.get(linkIds[0]);
    if (!widget || !link) continue;
    const inside = node.subgraph.getNodeById(link.target_id);
    widget.tooltip = await readTooltip(inside, inside.inputs[link.target_slot].name);
  }
}

app.registerExtension({
  name: "BIVDiff.Blueprints",

  nodeCreated(node) {
    if (!node.isSubgraphNode?.() || !node.subgraph.name.startsWith("BIVDiff")) return;
    for (const event of ["onConfigure", "onMouseEnter"]) {
      // Frontend 1.47 replaces the widgets now and then.
      const handler = node[event];
      node[event] = function (...args) {
        handler?.apply(this, args);
        addTooltips(this);
      };
    }
  },
});
