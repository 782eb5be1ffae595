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

/** All plots of a report, folded. */
function foldPlots(file) {
  const fold = createElement("details", {}, { fontSize: "12px", color: "var(--input-text)" });
  const picture = loadFile("img", file);
  picture.style.width = "100%";
  fold.append(createElement("summary", { textContent: "All measurements" }, { cursor: "pointer" }), picture);
  return fold;
}

function makeReport() {
  const verdict = statusBox("");
  const report = createElement("div", {}, { display: "flex", flexDirection: "column", gap: "6px", overflow: "auto" });
  report.append(verdict);
  return {
    element: report,
    /** Each value is a list with one entry per item of a list input, or one entry. */
    show({ words, good, plot, worst_frame: worstFrames, all_plots: allPlots = [] }) {
      verdict.textContent = words.join("\n\n");
      verdict.style.background = COLORS[good.includes(false) ? false : good[0]];
      const links = worstFrames.flatMap((frame, clip) => (frame === null ? [] : [linkToFrame(clip, frame)]));
      const plots = plot.map((file) => loadFile("img", file));
      const folds = allPlots.map(foldPlots);
      const fit = { flex: "1", minHeight: "0", objectFit: "contain", objectPosition: "top" };
      const full = { flex: "none", width: "100%" }; // an open fold is scrolled
      for (const { style } of plots) Object.assign(style, folds.length ? full : fit);
      verdict.style.flex = folds.length ? "none" : "";
      report.replaceChildren(verdict, ...links, ...plots, ...folds);
    },
  };
}

for (const type of ["BIVDiffLatentReport", "BIVDiffTemporalReport"]) addOutputWidget(type, [360, 720], makeReport);
