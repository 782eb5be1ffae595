// Shows the error message of a node of the pack, or of a core sampler that runs the pack's code (Frame Chunks, Frame
// Noise, Bridge Guider), until the next run. ComfyUI's own notice says only that the node failed.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { findNode } from "./graph.js";

/** Show a notice, and return a function that removes it. The frontend's functions for that changed in version 1.58. */
function showNotice(summary, detail) {
  const { toast } = app.extensionManager;
  if (toast.dismiss) {
    const id = toast.error(summary, { description: detail });
    return () => toast.dismiss(id);
  }
  const notice = { severity: "error", summary, detail };
  toast.add(notice);
  return () => toast.remove(notice);
}

app.registerExtension({
  name: "BIVDiff.Errors",

  setup() {
    let removeNotice;
    api.addEventListener("execution_start", () => removeNotice?.());
    api.addEventListener("execution_error", ({ detail }) => {
      const { node_id, node_type, exception_type, exception_message } = detail;
      if (!node_type.startsWith("BIVDiff") && !exception_type.endsWith(".BIVDiffError")) return;
      const title = findNode(node_id)?.title ?? node_type;
      const message = exception_message.trim();
      // The message starts with the node's name; do not repeat it below the title.
      const repeats = message.startsWith(`${title}: `);
      removeNotice = showNotice(title, repeats ? message.slice(title.length + 2) : message);
    });
  },
});
