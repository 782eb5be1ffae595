// The reports: the node itself says what it found, on green if that is good and on red if not, over its plot.

import { element, picture, showOutput, statusBox } from "./output_widget.js";

const COLORS = { true: "#1f5a2f", false: "#7a1f1f", null: "#37474f" };

function makeReport() {
  const verdict = statusBox("");
  const report = element("div", {}, { display: "flex", flexDirection: "column", gap: "6px" });
  report.append(verdict);
  return {
    element: report,
    /** Each is a list: of one, or where lists are wired in of one for each of their items. */
    show({ words, good, plot }) {
      verdict.textContent = words.join("\n\n");
      verdict.style.background = COLORS[good.includes(false) ? false : good[0]];
      const plots = plot.map(picture);
      const fit = { flex: "1", minHeight: "0", objectFit: "contain", objectPosition: "top" };
      for (const { style } of plots) Object.assign(style, fit);
      report.replaceChildren(verdict, ...plots);
    },
  };
}

for (const type of ["BIVDiffLatentReport", "BIVDiffTemporalReport"]) showOutput(type, [360, 720], makeReport);
