// The pack's templates open at the position and zoom stored in their file, with the note readable. Without this, the
// frontend (1.47) fits the whole template into the view, which shrinks a long chain to a quarter.

import { app } from "../../scripts/app.js";
import { rootGraph } from "./graph.js";

app.registerExtension({
  name: "BIVDiff.Templates",

  afterConfigureGraph() {
    const { extra } = rootGraph();
    if (!extra.bivdiffTemplate) return;
    delete extra.bivdiffTemplate; // a saved copy opens where the artist left it
    if (!app.extensionManager.setting.get("Comfy.EnableWorkflowViewRestore")) return;
    const { scale, offset } = extra.ds;
    const restoreView = () => {
      app.canvas.ds.scale = scale;
      app.canvas.ds.offset = [...offset];
      app.canvas.setDirty(true, true);
    };
    restoreView();
    requestAnimationFrame(() => requestAnimationFrame(restoreView)); // an unsized canvas is fitted one frame later
  },
});
