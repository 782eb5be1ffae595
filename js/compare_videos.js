// Compare Videos: two clips in sync with a wipe between them, above curves of each clip's change from frame to frame.

import { addOutputWidget, createElement, loadImage } from "./output_widget.js";

const COLORS = { before: "#e8a33d", after: "#4fb3ff" };

/** Write a line of text that starts (left) or ends (right) at a point. */
function drawText(context, text, color, x, y, align) {
  Object.assign(context, { font: "12px sans-serif", textAlign: align, textBaseline: "top", fillStyle: color });
  context.fillText(text, x, y);
}

/** The node's widget: frames, playback and curves. */
class Comparison {
  /** @param {{before: string, after: string}} names labels of the two clips */
  constructor(names) {
    this.names = names;
    this.clips = { before: [], after: [] };
    this.changes = { before: [], after: [] };
    this.frame = 0;
    this.wipe = 0.5;

    this.view = createElement("canvas", { ariaLabel: "wipe" }, { flex: "1", minHeight: "0", cursor: "ew-resize" });
    this.play = createElement("button", { textContent: "▶", ariaLabel: "play" }, { width: "2.5em" });
    this.scrub = createElement("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: "frame" }, { flex: "1" });
    this.count = createElement("span", { textContent: "–" }, { minWidth: "4em", textAlign: "right" });
    this.curves = createElement("canvas", { ariaLabel: "change from frame to frame" }, { height: "90px" });
    const controls = createElement("div", {}, { display: "flex", gap: "8px", alignItems: "center" });
    controls.append(this.play, this.scrub, this.count);
    this.element = createElement(
      "div",
      {},
      { display: "flex", flexDirection: "column", gap: "6px", fontSize: "12px", color: "var(--input-text)" },
    );
    this.element.append(this.view, controls, this.curves);

    this.view.addEventListener("pointerdown", (event) => {
      this.view.setPointerCapture(event.pointerId);
      this.moveWipe(event);
    });
    this.view.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.moveWipe(event);
    });
    this.play.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
    this.scrub.addEventListener("input", () => {
      this.stop();
      this.showFrame(Number(this.scrub.value));
    });
    this.resizeObserver = new ResizeObserver(() => this.draw());
    this.resizeObserver.observe(this.view);
    this.resizeObserver.observe(this.curves);
  }

  /**
   * Show the node's output: the files of both clips, their changes from frame to frame, and the frame rate. Clips from
   * list inputs play one after another.
   */
  show({ before, after, changes, fps }) {
    this.stop();
    this.clips = { before: before.map(loadImage), after: after.map(loadImage) };
    const joined = (side) => changes.flatMap((pair, i) => (i ? [null, ...pair[side]] : pair[side]));
    this.changes = { before: joined(0), after: joined(1) }; // null between two clips of a list
    this.fps = fps[0];
    this.scrub.max = before.length - 1;
    for (const image of [...this.clips.before, ...this.clips.after]) image.addEventListener("load", () => this.draw());
    this.showFrame(0);
    this.start();
  }

  start() {
    const count = this.clips.before.length;
    if (count < 2) return;
    this.timer = setInterval(() => this.showFrame((this.frame + 1) % count), 1000 / this.fps);
    this.play.textContent = "❚❚";
  }

  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    this.play.textContent = "▶";
  }

  remove() {
    this.stop();
    this.resizeObserver.disconnect();
  }

  showFrame(frame) {
    this.frame = frame;
    this.scrub.value = frame;
    this.count.textContent = `${frame + 1} / ${this.clips.before.length}`;
    this.draw();
  }

  /** Move the wipe to the pointer; the second clip is on its right. */
  moveWipe(event) {
    if (!this.area) return; // the frames are not drawn yet
    const { left, width } = this.view.getBoundingClientRect();
    const pointer = ((event.clientX - left) / width) * this.view.width; // the graph's zoom scales the rectangle
    this.wipe = Math.min(Math.max((pointer - this.area.x) / this.area.width, 0), 1);
    this.draw();
  }

  draw() {
    for (const canvas of [this.view, this.curves]) {
      canvas.width = canvas.clientWidth; // also clears it
      canvas.height = canvas.clientHeight;
    }
    const pair = [this.clips.before[this.frame], this.clips.after[this.frame]];
    if (!pair.every((image) => image?.complete && image.naturalWidth)) return;
    this.drawFrames(...pair);
    this.drawCurves();
  }

  drawFrames(before, after) {
    const context = this.view.getContext("2d");
    const scale = Math.min(this.view.width / after.naturalWidth, this.view.height / after.naturalHeight);
    const [width, height] = [after.naturalWidth * scale, after.naturalHeight * scale];
    const [x, y] = [(this.view.width - width) / 2, (this.view.height - height) / 2];
    this.area = { x, width };
    const edge = x + this.wipe * width;
    context.drawImage(after, x, y, width, height);
    context.save();
    context.beginPath();
    context.rect(x, y, edge - x, height);
    context.clip();
    context.drawImage(before, x, y, width, height);
    context.restore();
    context.fillStyle = "white";
    context.fillRect(edge - 1, y, 2, height);
    context.fillStyle = "rgba(0, 0, 0, 0.6)";
    context.fillRect(x, y, width, 20);
    drawText(context, this.names.before, COLORS.before, x + 6, y + 4, "left");
    drawText(context, this.names.after, COLORS.after, x + width - 6, y + 4, "right");
  }

  /** Draw each clip's change over the frames, its mean, and a line at the current frame. */
  drawCurves() {
    const context = this.curves.getContext("2d");
    const { width, height } = this.curves;
    const [top, bottom] = [20, height - 6];
    const last = Math.max(this.clips.before.length - 1, 1);
    const highest = Math.max(...this.changes.before, ...this.changes.after, 1e-6);
    const x = (frame) => 6 + (frame / last) * (width - 12);

    context.fillStyle = "rgba(127, 127, 127, 0.5)";
    context.fillRect(x(this.frame) - 1, top, 2, bottom - top);
    for (const clip of ["before", "after"]) {
      const values = this.changes[clip];
      context.beginPath();
      // The first value is the change from frame 0 to frame 1, drawn at frame 1.
      values.forEach((value, i) => {
        if (value === null) return;
        const to = values[i - 1] == null ? "moveTo" : "lineTo";
        context[to](x(i + 1), bottom - (value / highest) * (bottom - top));
      });
      context.strokeStyle = COLORS[clip];
      context.lineWidth = clip === "before" ? 4 : 2; // so that equal curves are both visible
      context.stroke();
      const known = values.filter((value) => value !== null);
      if (!known.length) continue;
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      const [at, align] = clip === "before" ? [6, "left"] : [width - 6, "right"];
      drawText(context, `${this.names[clip]}: change ${mean.toFixed(2)}`, COLORS[clip], at, 2, align);
    }
  }
}

addOutputWidget("BIVDiffCompareVideos", [360, 480], (node) => {
  const [before, after] = node.inputs.map((input) => input.label ?? input.localized_name ?? input.name);
  return new Comparison({ before, after });
});
