// Compare Videos: two clips in sync with a wipe between them, above curves of each clip's change from frame to frame. A
// file holds both clips, one above the other: a video, or a picture if they have one frame.

import { addOutputWidget, createElement, loadFile } from "./output_widget.js";

// Also in bivdiff_core/measure/plots.py.
const COLORS = { before: "#e8a33d", after: "#4fb3ff" };
const comparisons = new Set(); // of the open workflow
const states = new Map(); // by file: when a tab is opened again its nodes are new, and continue from here

/** Write a line of text that starts (left) or ends (right) at a point. */
function drawText(context, text, color, x, y, align) {
  Object.assign(context, { font: "12px sans-serif", textAlign: align, textBaseline: "top", fillStyle: color });
  context.fillText(text, x, y);
}

/** Set a canvas's size to that of its element, which also clears it. */
function clearCanvas(canvas) {
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  return canvas.getContext("2d");
}

/** The node's widget: frames, playback and curves. */
class Comparison {
  /** @param {{before: string, after: string}} names labels of the two clips */
  constructor(names) {
    this.names = names;
    this.clips = [];
    this.isVisible = false;
    this.state = { frame: 0, wipe: 0.5, isPlaying: true, isMuted: true };

    this.view = createElement("canvas", { ariaLabel: "wipe" }, { flex: "1", minHeight: "0", cursor: "ew-resize" });
    this.play = createElement("button", { ariaLabel: "play" }, { width: "2.5em" });
    this.sound = createElement("button", { ariaLabel: "sound" }, { width: "4em" });
    this.scrub = createElement("input", { type: "range", min: 0, ariaLabel: "frame" }, { flex: "1", minWidth: "0" });
    this.count = createElement("span", {}, { minWidth: "7em", textAlign: "right" });
    this.curves = createElement("canvas", { ariaLabel: "change from frame to frame" }, { height: "90px" });
    this.controls = createElement("div", {}, { display: "flex", gap: "8px", alignItems: "center" });
    this.controls.append(this.play, this.sound, this.scrub, this.count);
    this.element = createElement(
      "div",
      {},
      { display: "flex", flexDirection: "column", gap: "6px", fontSize: "12px", color: "var(--input-text)" },
    );
    this.element.append(createElement("span", { textContent: "Run to compare" }, { margin: "auto" }));

    this.view.addEventListener("pointerdown", (event) => {
      this.view.setPointerCapture(event.pointerId);
      this.moveWipe(event);
    });
    this.view.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.moveWipe(event);
    });
    this.play.addEventListener("click", () => this.change({ isPlaying: !this.state.isPlaying }));
    this.sound.addEventListener("click", () => this.change({ isMuted: !this.state.isMuted }));
    this.scrub.addEventListener("input", () => this.pauseAt(Number(this.scrub.value)));
    this.resizeObserver = new ResizeObserver(() => this.draw());
    this.resizeObserver.observe(this.view);
    this.resizeObserver.observe(this.curves);
    this.visibilityObserver = new IntersectionObserver((entries) => {
      this.isVisible = entries.at(-1).isIntersecting;
      this.change({});
    });
    this.visibilityObserver.observe(this.view);
    comparisons.add(this);
  }

  /**
   * Show the node's output: the files of both clips, their changes from frame to frame, frame rates, and whether they
   * have sound. Files from list inputs play one after another.
   */
  show({ compared, changes, fps, sound }) {
    this.unload();
    this.frames = 0;
    this.clips = compared.map((file, i) => {
      const clip = { first: this.frames, frames: changes[i][0].length + 1, fps: fps[i] };
      clip.isVideo = clip.frames > 1;
      clip.source = loadFile(clip.isVideo ? "video" : "img", file);
      if (clip.isVideo) this.followVideo(clip);
      else clip.source.addEventListener("load", () => this.draw());
      this.frames += clip.frames;
      return clip;
    });
    const joined = (side) => changes.flatMap((pair, i) => (i ? [null, ...pair[side]] : pair[side]));
    this.changes = { before: joined(0), after: joined(1) }; // null between two files
    const key = compared[0].filename;
    if (!states.has(key)) states.set(key, { ...this.state, frame: 0, isPlaying: true });
    this.state = states.get(key);
    this.scrub.max = this.frames - 1;
    this.sound.hidden = !sound.includes(true);
    this.element.replaceChildren(this.view, this.controls, this.curves);
    this.seek(this.state.frame);
  }

  /** Draw each frame that a video shows, and continue with the next file after the last one. */
  followVideo(clip) {
    const { source, first, frames, fps } = clip;
    Object.assign(source, { preload: "metadata", playsInline: true });
    source.addEventListener("ended", () => this.seek(first + frames));
    source.addEventListener("seeked", () => this.draw()); // a paused video may have no callback below
    const onFrame = (now, { mediaTime }) => {
      source.requestVideoFrameCallback(onFrame);
      if (clip !== this.clip || source.seeking) return;
      this.setFrame(first + Math.min(Math.round(mediaTime * fps), frames - 1));
    };
    source.requestVideoFrameCallback(onFrame);
  }

  /** The file that holds the current frame. */
  get clip() {
    return this.clips.findLast(({ first }) => first <= this.state.frame);
  }

  /** Change the state, and play or pause accordingly. Out of view nothing plays. */
  change(state) {
    Object.assign(this.state, state);
    const { isPlaying, isMuted } = this.state;
    this.play.textContent = isPlaying ? "❚❚" : "▶";
    this.sound.textContent = isMuted ? "muted" : "sound";
    clearTimeout(this.timer);
    for (const clip of this.clips) {
      const plays = isPlaying && this.isVisible && clip === this.clip;
      if (clip.isVideo) {
        clip.source.muted = isMuted;
        if (plays) clip.source.play().catch(() => {}); // a pause before the start is an error
        else clip.source.pause();
      } else if (plays && this.frames > 1) {
        this.timer = setTimeout(() => this.seek(clip.first + 1), 1000 / clip.fps);
      }
    }
  }

  /** Go to a frame; after the last one to the first. */
  seek(frame) {
    this.setFrame(frame % this.frames);
    const { source, first, fps, isVideo } = this.clip;
    if (isVideo) source.currentTime = (this.state.frame - first + 0.5) / fps; // the middle of the frame
    this.change({});
  }

  pauseAt(frame) {
    this.state.isPlaying = false;
    this.seek(frame);
  }

  setFrame(frame) {
    this.state.frame = frame;
    this.scrub.value = frame;
    this.count.textContent = `frame ${frame} of ${this.frames}`;
    this.draw();
  }

  /** Stop, and free the memory of the videos. */
  unload() {
    clearTimeout(this.timer);
    for (const { source } of this.clips) {
      source.removeAttribute("src");
      source.load?.();
    }
    this.clips = [];
  }

  remove() {
    comparisons.delete(this);
    this.unload();
    this.resizeObserver.disconnect();
    this.visibilityObserver.disconnect();
  }

  /** Move the wipe to the pointer; the second clip is on its right. */
  moveWipe(event) {
    if (!this.area) return; // the frames are not drawn yet
    const { left, width } = this.view.getBoundingClientRect();
    const pointer = ((event.clientX - left) / width) * this.view.width; // the graph's zoom scales the rectangle
    this.state.wipe = Math.min(Math.max((pointer - this.area.x) / this.area.width, 0), 1);
    this.draw();
  }

  draw() {
    const { source, isVideo } = this.clip ?? {};
    if (!source) return;
    this.drawCurves();
    if (isVideo ? source.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA : source.complete) this.drawFrames(source);
  }

  drawFrames(source) {
    const context = clearCanvas(this.view);
    const sourceWidth = source.videoWidth ?? source.naturalWidth;
    const sourceHeight = (source.videoHeight ?? source.naturalHeight) / 2; // of one clip
    const scale = Math.min(this.view.width / sourceWidth, this.view.height / sourceHeight);
    const [width, height] = [sourceWidth * scale, sourceHeight * scale];
    const [x, y] = [(this.view.width - width) / 2, (this.view.height - height) / 2];
    this.area = { x, width };
    const edge = x + this.state.wipe * width;
    const drawClip = (top) => context.drawImage(source, 0, top, sourceWidth, sourceHeight, x, y, width, height);
    drawClip(sourceHeight);
    context.save();
    context.beginPath();
    context.rect(x, y, edge - x, height);
    context.clip();
    drawClip(0);
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
    const context = clearCanvas(this.curves);
    const { width, height } = this.curves;
    const [top, bottom] = [20, height - 6];
    const last = Math.max(this.frames - 1, 1);
    const highest = Math.max(...this.changes.before, ...this.changes.after, 1e-6);
    const x = (frame) => 6 + (frame / last) * (width - 12);

    context.fillStyle = "rgba(127, 127, 127, 0.5)";
    context.fillRect(x(this.state.frame) - 1, top, 2, bottom - top);
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
      drawText(context, `${this.names[clip]}: change ${(100 * mean).toFixed(1)}%`, COLORS[clip], at, 2, align);
    }
  }
}

/** Pause every comparison of the open workflow at a frame of a clip; comparisons of fewer frames stay as they are. */
export function showInComparisons(clip, frame) {
  for (const comparison of comparisons) {
    const { first, frames } = comparison.clips[clip] ?? { frames: 0 };
    if (frame < frames) comparison.pauseAt(first + frame);
  }
}

addOutputWidget("BIVDiffCompareVideos", [360, 480], (node) => {
  const [before, after] = node.inputs.map((input) => input.label ?? input.localized_name ?? input.name);
  return new Comparison({ before, after });
});
