// Finds the open workflow, and its nodes by the ids that ComfyUI's frontend and server use.

import { app } from "../../scripts/app.js";

/** The whole workflow, also while a subgraph is open; older frontends have only app.graph. */
export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/**
 * Find a node by its id: "3" in the workflow itself; "UUID:3" in the subgraph with that id (the frontend's form); "5:3"
 * in the subgraph of node 5 (the server's form).
 *
 * @param {string | number} id
 * @returns the node, or undefined if there is none
 */
export function findNode(id) {
  const path = String(id).split(":");
  const local = path.pop();
  let graph = rootGraph();
  for (const step of path) graph = graph?.subgraphs?.get(step) ?? graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(local) ?? undefined;
}
