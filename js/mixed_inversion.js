// Mixed Inversion Blend: a task sets its mixing ratio and locks the slider; custom unlocks it.

import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "BIVDiff.MixedInversion",

  nodeCreated(node) {
    if (node.comfyClass !== "BIVDiffMixedInversion") return;
    const task = node.widgets.find((widget) => widget.name === "task");
    const ratio = node.widgets.find((widget) => widget.name === "mixing_ratio");
    const ratios = node.constructor.nodeData.input.required.task[1].ratios;
    const label = ratio.label;

    function showRatio() {
      const preset = ratios[task.value];
      ratio.disabled = preset !== undefined;
      if (ratio.disabled) ratio.value = preset;
      // Canvas nodes hide the value of a disabled widget, so show it in the label.
      ratio.label = ratio.disabled ? `${label} = ${preset}` : label;
      app.canvas?.setDirty(true);
    }

    const { callback } = task;
    task.callback = function (...args) {
      callback?.apply(this, args);
      showRatio();
    };
    const { onConfigure } = node;
    node.onConfigure = function (...args) {
      onConfigure?.apply(this, args);
      showRatio();
    };
  },
});
