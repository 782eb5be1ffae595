// The workflow on the page, and its nodes by the ids that the page and the server give them.

import { app } from "../../scripts/app.js";

/** The workflow as a whole, whichever of its subgraphs is open; older front ends know no other graph. */
export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/**
 * A node by its id: "3" in the workflow itself; "UUID:3" in the subgraph of that id, as the page says it; "5:3" in the
 * subgraph of node 5, as the server says it.
 *
 * @param {string | number} id
 * @returns the node, or undefined where there is none
 */
export function findNode(id) {
  const path = String(id).split(":");
  const local = path.pop();
  let graph = rootGraph();
  for (const step of path) graph = graph?.subgraphs?.get(step) ?? graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(local) ?? undefined;
}
