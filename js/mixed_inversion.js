// Mixed Inversion Blend: a task shows its mixing ratio and locks the slider; custom gives it back.

import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "BIVDiff.MixedInversion",

  nodeCreated(node) {
    if (node.comfyClass !== "BIVDiffMixedInversion") return;
    const task = node.widgets.find((widget) => widget.name === "task");
    const ratio = node.widgets.find((widget) => widget.name === "mixing_ratio");
    const ratios = node.constructor.nodeData.input.required.task[1].ratios;
    const label = ratio.label;

    function show() {
      const preset = ratios[task.value];
      ratio.disabled = preset !== undefined;
      if (ratio.disabled) ratio.value = preset;
      // Nodes drawn on the canvas show no value of a disabled widget.
      ratio.label = ratio.disabled ? `${label} = ${preset}` : label;
      app.canvas?.setDirty(true);
    }

    const { callback } = task;
    task.callback = function (...args) {
      callback?.apply(this, args);
      show();
    };
    const { onConfigure } = node;
    node.onConfigure = function (...args) {
      onConfigure?.apply(this, args);
      show();
    };
  },
});
