// The pack's templates open where their file says, at the note and at a zoom at which it can be read. The page fits a
// template into view as a whole instead (front end 1.47), which shrinks a long chain to a quarter.

import { app } from "../../scripts/app.js";
import { rootGraph } from "./graph.js";

app.registerExtension({
  name: "BIVDiff.Templates",

  afterConfigureGraph() {
    const { extra } = rootGraph();
    if (!extra.bivdiffTemplate) return;
    delete extra.bivdiffTemplate; // once saved it is the artist's own, and opens where they left it
    if (!app.extensionManager.setting.get("Comfy.EnableWorkflowViewRestore")) return;
    const { scale, offset } = extra.ds;
    const show = () => {
      app.canvas.ds.scale = scale;
      app.canvas.ds.offset = [...offset];
      app.canvas.setDirty(true, true);
    };
    show();
    requestAnimationFrame(() => requestAnimationFrame(show)); // a canvas without a size yet is fitted a frame later
  },
});
