// What a node of the pack failed with, or a core sampler inside the pack's code (Frame Chunks, Frame Noise, Bridge Guider),
// to be read without a click and until the next run. The page's own notice says only that the node failed.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "BIVDiff.Errors",

  setup() {
    const { toast } = app.extensionManager;
    let notice;
    api.addEventListener("execution_start", () => notice && toast.remove(notice));
    api.addEventListener("execution_error", ({ detail: { node_type, exception_message, traceback } }) => {
      const message = exception_message.trim();
      if (node_type.startsWith("BIVDiff")) {
        const [summary, detail] = message.split(/: (.*)/s); // the node's name comes first
        notice = { severity: "error", summary, detail };
      } else if (traceback.at(-1)?.includes("bivdiff_core")) {
        notice = { severity: "error", summary: node_type, detail: message };
      } else return;
      toast.add(notice);
    });
  },
});
