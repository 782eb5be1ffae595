// What a node of the pack failed with, to be read without a click and until the next run. The page's own notice says only
// that the node failed.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "BIVDiff.Errors",

  setup() {
    const { toast } = app.extensionManager;
    let notice;
    api.addEventListener("execution_start", () => notice && toast.remove(notice));
    api.addEventListener("execution_error", ({ detail: { node_type, exception_message } }) => {
      if (!node_type.startsWith("BIVDiff")) return;
      const [summary, detail] = exception_message.trim().split(/: (.*)/s); // the node's name comes first
      notice = { severity: "error", summary, detail };
      toast.add(notice);
    });
  },
});
