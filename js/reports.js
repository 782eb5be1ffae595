// Reports on the node: the verdict, green if it is good and red if not, above the plot.

import { showInComparisons } from "./compare_videos.js";
import { addOutputWidget, createElement, loadFile, statusBox } from "./output_widget.js";

const COLORS = { true: "#1f5a2f", false: "#7a1f1f", null: "#37474f" };

/** A link that shows a frame in Compare Videos. */
function linkToFrame(clip, frame) {
  const link = createElement(
    "button",
    { textContent: `Compare at frame ${frame}`, title: "Shows this frame in Compare Videos" },
    { alignSelf: "start", fontSize: "12px", textDecoration: "underline", cursor: "pointer" },
  );
  link.addEventListener("click", () => showInComparisons(clip, frame));
  return link;
}

function makeReport() {
  const verdict = statusBox("");
  const report = createElement("div", {}, { display: "flex", flexDirection: "column", gap: "6px" });
  report.append(verdict);
  return {
    element: report,
    /** Each value is a list with one entry per item of a list input, or one entry. */
    show({ words, good, plot, worst_frame: worstFrames }) {
      verdict.textContent = words.join("\n\n");
      verdict.style.background = COLORS[good.includes(false) ? false : good[0]];
      const links = worstFrames.flatMap((frame, clip) => (frame === null ? [] : [linkToFrame(clip, frame)]));
      const plots = plot.map((file) => loadFile("img", file));
      const fit = { flex: "1", minHeight: "0", objectFit: "contain", objectPosition: "top" };
      for (const { style } of plots) Object.assign(style, fit);
      report.replaceChildren(verdict, ...links, ...plots);
    },
  };
}

for (const type of ["BIVDiffLatentReport", "BIVDiffTemporalReport"]) addOutputWidget(type, [360, 720], makeReport);
