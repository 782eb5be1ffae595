// Inverted Latent Report: the node itself says what is wrong, on red if its alarm is lit.

import { showOutput, statusBox } from "./output_widget.js";

const COLORS = { lit: "#7a1f1f", healthy: "#1f5a2f" };

showOutput("BIVDiffLatentReport", [360, 300], () => {
  const report = statusBox("");
  return {
    element: report,
    show({ summary, alarm }) {
      report.textContent = summary[0];
      report.style.background = alarm[0] ? COLORS.lit : COLORS.healthy;
    },
  };
});
