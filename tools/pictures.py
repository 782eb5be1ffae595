"""Make the pictures of the help pages, js/docs/<node id>.jpg: results of each node on the demo models.

    python -m tools.pictures [NODE_ID ...]

Clip, prompt and settings are those of the demo workflow, unless a picture is about one of them. Two nodes, and nodes
without a picture of their results, are shown as screenshots of the frontend in Chromium.
"""

from __future__ import annotations

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from batch.comfyui_server import ComfyUIServer
from research import toy_world
from research.demo_chain import DemoChain
from tools import workflow_parts
from tools.browser import ComfyUIPage, launch_chromium, open_comfyui
from tools.demo import WORKFLOW
from tools.in_process_comfyui import COMFYUI
from tools.workflow_graph import WorkflowGraph

PAGES = Path(__file__).resolve().parents[1] / "js" / "docs"
WIDTH, GAP = 720, 4
LINE_LENGTH, FONT_SIZE, LINE_HEIGHT = 54, 27, 36
"""Captions: letters per line, and sizes in pixels. Large, because the help panel is 280 pixels wide."""
QUALITIES, MAX_BYTES = (60, 45), 80_000
"""JPEG qualities to try in order, until a file has at most MAX_BYTES."""
MODEL = "zeroscope_v2_576w"

Rows = dict[str, Tensor | dict | list[dict]]
"""The rows of a help page's picture by the caption above: small pictures `[N, H, W, 3]` in 0..1, a LATENT (shows every
second frame), or a list of LATENTs (shows the first frame of each)."""


class HelpPictures(DemoChain):
    """The demo workflow's chain on its clip. A method named after a node makes the rows of that node's picture."""

    def __init__(self) -> None:
        super().__init__()
        self.source = toy_world.packaged_clip().frames
        self.prompt = self.encode_text(workflow_parts.DEMO_THING)
        self.controlled = self.apply_outline_control(self.source, self.prompt)
        self.blank = self.empty_latent(len(self.source))
        self.frames = self.generate_frames(*self.controlled, self.blank, seed=0)
        self.image_inverted = self.invert_image(self.frames, self.empty, 1.0)
        self.video_inverted = self.invert_video(self.frames, self.empty, 1.0)

    def draw(self, node_id: str) -> Image.Image:
        """The picture of a node: every row below its caption, at the full width."""
        page = Image.new("RGB", (WIDTH, 4 * WIDTH), "white")  # higher than any picture
        draw, font, y = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE), 0
        for caption, row in getattr(self, node_id)().items():
            if isinstance(row, list):
                row = torch.cat([self.decode(latent)[:1] for latent in row])
            pictures = self.decode(row)[::2] if isinstance(row, dict) else row
            for line in wrap(caption, LINE_LENGTH):
                draw.text((GAP, y + LINE_HEIGHT / 2), line, "#222", font, anchor="lm")
                y += LINE_HEIGHT
            width = round((WIDTH + GAP) / len(pictures)) - GAP
            size = width, round(width * pictures.shape[1] / pictures.shape[2])
            for i, picture in enumerate(pictures):
                tile = to_pil_image(picture.movedim(-1, 0)).resize(size, Image.Resampling.BICUBIC)
                page.paste(tile, (round(i * (WIDTH + GAP) / len(pictures)), y))
            y += size[1] + GAP
        return page.crop((0, 0, WIDTH, y))

    def smooth_blend(self, ratio: float, mode: str = "linear") -> dict:
        """The LATENT of the smoothed video."""
        return self.smooth(self.blend(self.image_inverted, self.video_inverted, ratio, mode), self.prompt)

    def sample(self, guider, noise, sampler: str = "ddim", model=None) -> dict:
        """The LATENT that SamplerCustomAdvanced samples from an empty one."""
        return self.run_custom_sampler(guider, noise, self.blank, sampler=sampler, model=model)

    def sweep(self, latents: list[dict], **names: list) -> tuple[Tensor, Tensor]:
        """Sweep Grid's video and plot, with the frame-wise frames as reference."""
        videos, reference = [self.decode(latent) for latent in latents], [self.decode(self.frames)]
        return self.pack.run("BIVDiffSweepGrid", images=videos, reference_images=reference, **names)

    def sweep_ratios(self) -> tuple[Tensor, Tensor]:
        """The sweep of a Mixing Ratio List."""
        (ratios,) = self.pack.run("BIVDiffRatioList", ratios="0, 0.25, 0.5, 0.75, 1")
        return self.sweep([self.smooth_blend(ratio) for ratio in ratios], ratios=ratios)

    def BIVDiffFrameSampler(self) -> Rows:
        return {
            "The control: outlines, one for each frame": toy_world.canny_hints(self.source)[::2],
            'Independently generated, "a yellow sailboat": they follow it, and flicker': self.frames,
        }

    def BIVDiffInvertImage(self) -> Rows:
        inverted = [self.invert_image(self.frames, self.empty, strength) for strength in (0.25, 0.5, 0.75, 1.0)]
        denoised = [self.denoise_by_frame(latent, self.prompt, self.empty) for latent in inverted]
        return {
            "A frame, and inverted to strength 0.25, 0.5, 0.75 and 1 (decoded)": [self.frames, *inverted],
            "Denoised again by the same model": [self.frames, *denoised],
        }

    def BIVDiffInvertVideo(self) -> Rows:
        denoised = self.smooth(self.video_inverted, self.prompt)
        return {
            "Frames of the image model": self.frames,
            "The output: noise (decoded)": self.video_inverted,
            "Denoised again by the same model: the frames return, with their flicker": denoised,
        }

    def BIVDiffMixedInversion(self) -> Rows:
        return {
            "Frames of the image model": self.frames,
            "mixing_ratio 0, the video branch alone: close to the frames": self.smooth_blend(0.0),
            "mixing_ratio 0.5": self.smooth_blend(0.5),
            "mixing_ratio 1, the image branch alone: less flicker, further from the frames": self.smooth_blend(1.0),
        }

    def BIVDiffTemporalSmoother(self) -> Rows:
        blend = self.blend(self.image_inverted, self.video_inverted, 1.0)
        return {
            "Frames of the image model": self.frames,
            "The input: the inverted frames (strength 1, decoded)": blend,
            "The output: the smoothed video": self.smooth_blend(1.0),
        }

    def BIVDiffInvertedNoise(self) -> Rows:
        (noise,) = self.pack.run("BIVDiffInvertedNoise", latent=self.video_inverted)
        guider = self.pack.run("CFGGuider", model=self.video, positive=self.prompt, negative=self.empty, cfg=1.0)[0]
        ddim, ancestral = (self.sample(guider, noise, name, self.video) for name in ("ddim", "euler_ancestral"))
        return {
            "Frames of the image model, inverted and wired to SamplerCustomAdvanced": self.frames,
            "Sampler ddim: the frames return": ddim,
            "Sampler euler_ancestral adds noise: the frames are lost": ancestral,
        }

    def BIVDiffSaveLatent(self) -> Rows:
        inverted = self.invert_image(self.frames, self.empty, 0.5)
        without_record = {"samples": inverted["samples"]}  # as saved by core's Save Latent
        return {
            "Frames of the image model, inverted to strength 0.5 and saved": self.frames,
            "Loaded and smoothed: the latent records its noise level": self.smooth(inverted, self.prompt),
            "Saved by core's Save Latent: treated as full noise, strength 1": self.smooth(without_record, self.prompt),
        }

    def BIVDiffLoadLatent(self) -> Rows:
        return {
            "Two inversions, saved once": self.image_inverted,
            "Loaded, blended at mixing ratio 0 and smoothed": self.smooth_blend(0.0),
            "Loaded, blended at mixing ratio 0.5 and smoothed": self.smooth_blend(0.5),
            "Loaded, blended at mixing ratio 1 and smoothed": self.smooth_blend(1.0),
        }

    def BIVDiffFrameNoise(self) -> Rows:
        # The prompt names every colour, so that only the noise differs.
        prompt = self.encode_text(workflow_parts.DEMO_PROMPT)
        positive, negative = self.apply_outline_control(self.source, prompt)
        guider = self.pack.run("CFGGuider", model=self.image, positive=positive, negative=negative, cfg=3.0)[0]
        captions = {
            "independent": "independent: texture jumps from frame to frame",
            "shared": "shared: texture stays, and sticks to the screen while the sailboat moves",
            "progressive": "progressive: texture changes slowly",
        }
        return {caption: self.sample(guider, self.frame_noise(0, mode)) for mode, caption in captions.items()}

    def BIVDiffFrameChunks(self) -> Rows:
        (chunked,) = self.pack.run("BIVDiffFrameChunks", model=self.image, frames_per_batch=3)
        whole, in_chunks = (
            self.decode(self.run_ksampler(model, self.controlled[0], self.blank, seed=0))[::2]
            for model in (self.image, chunked)
        )
        return {
            "KSampler, 8 frames at once": whole,
            "KSampler behind Frame Chunks, 3 at a time": in_chunks,
            "The difference, ten times as bright: nothing": (in_chunks - whole).abs().mul(10).clamp(0, 1),
        }

    def BIVDiffSelectFrames(self) -> Rows:
        selected, *_ = self.pack.run("BIVDiffSelectFrames", images=self.source, start=1, stride=2, count=3, fps=8.0)
        placed = torch.ones_like(self.source)
        placed[[1, 3, 5]] = selected
        return {
            "A clip of 8 frames, 8 a second": self.source,
            "start 1, stride 2, count 3: frames 1, 3 and 5 of 0 to 7, 4 a second": placed,
        }

    def BIVDiffSplitAtCuts(self) -> Rows:
        clips = [toy_world.generate_clip(seed).frames for seed in toy_world.HELD_OUT_SEEDS[:3]]
        clip = torch.cat([clips[0][:5], clips[1][:4], clips[2][:3]])
        shots, *_ = self.pack.run("BIVDiffSplitAtCuts", images=clip, fps=8.0)
        white = torch.ones_like(clip)
        rows = {"A clip of 12 frames with two cuts": clip}
        for number, shot in enumerate(shots, start=1):
            rows[f"Shot {number}: {len(shot)} frames"] = torch.cat([shot, white[len(shot) :]])
        return rows

    def BIVDiffAverageAlongMotion(self) -> Rows:
        settings = {"images": self.decode(self.frames), "motion_from": self.source}
        near, _ = self.pack.run("BIVDiffAverageAlongMotion", **settings, reach=1)
        far, share = self.pack.run("BIVDiffAverageAlongMotion", **settings, reach=7)
        return {
            "Frames of the image model": self.frames,
            "reach 1": near[::2],
            "reach 7: less flicker, but softer where textures differ": far[::2],
            "mask at 7: the share of adjacent frames used": share[::2, ..., None].expand(-1, -1, -1, 3),
        }

    def BIVDiffEncodeFrames(self) -> Rows:
        latent, *_ = self.pack.run(
            "BIVDiffEncodeFrames", vae=self.vae, images=self.source, stride=1, mode="single_frames"
        )
        format_ = self.image.get_model_object("latent_format")
        colours = torch.tensor(format_.latent_rgb_factors), torch.tensor(format_.latent_rgb_factors_bias)
        small = format_.process_in(latent["samples"]).movedim(1, -1) @ colours[0] + colours[1]
        large = ((small + 1) / 2).clamp(0, 1).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        return {
            "The frames": self.source[::2],
            "Their latents: an eighth as wide, in approximate colours": large[::2],
            "Decoded again": latent,
        }

    def BIVDiffPrompt2Prompt(self) -> Rows:
        source, target = workflow_parts.DEMO_PROMPT, workflow_parts.DEMO_EDITED_PROMPT
        edited, reconstructed = self.edit_prompt(self.source, source, target, "yellow pink")
        return {
            f"The clip: {source}": self.source[::2],
            f"edited: {target}": edited,
            "reconstructed: what the inversion and cfg lose without an edit": reconstructed,
        }

    def BIVDiffDemoModels(self) -> Rows:
        texts = (
            "a red fish over a yellow sea",
            "a green bird over a pink sky",
            "a purple cat over a white meadow",
            "a blue sailboat over an orange dusk",
        )
        prompts = [self.encode_text(text) for text in texts]
        clip_prompt = self.encode_text("a red fish over a yellow sea, patterned")
        clip = self.run_ksampler(self.video, clip_prompt, self.blank, seed=1)
        return {
            "image_model: a red fish, a green bird, a purple cat, a blue sailboat": [
                self.generate_frames(prompt, self.empty, self.empty_latent(1), seed=0) for prompt in prompts
            ],
            "with CONTROL_NET: a yellow sailboat, following a clip's outlines": self.frames,
            "video_model: a clip of a red fish over a yellow sea": clip,
        }

    def BIVDiffDemoClip(self) -> Rows:
        (video,) = self.pack.run("BIVDiffDemoClip", frames=64)
        return {"Every seventh of its 64 frames": video.get_components().images[::7]}

    def BIVDiffBatchConditioning(self) -> Rows:
        colours = ("blue", "blue", "cyan", "cyan", "green", "green", "yellow", "yellow")
        prompts = [self.encode_text(f"a {colour} sailboat") for colour in colours]
        (joined,) = self.pack.run("BIVDiffBatchConditioning", conditioning=prompts)
        controlled = self.apply_outline_control(self.source, joined)
        return {
            "The control: outlines, one for each frame": toy_world.canny_hints(self.source)[::2],
            "One batch; the prompts say blue, cyan, green and yellow": self.generate_frames(
                *controlled, self.blank, seed=0, noise="shared"
            ),
        }

    def BIVDiffBridgeGuider(self) -> Rows:
        noise = self.frame_noise(0, "independent")
        image_alone, both = (
            self.make_bridge_guider(self.controlled, self.prompt, 3.0, "parallel", share) for share in (1.0, 0.5)
        )
        return {
            "image_share 1: the image model alone, with its ControlNet": self.sample(image_alone, noise),
            "image_share 0.5: both models in every step": self.sample(both, noise),
        }

    def BIVDiffBorrowControl(self) -> Rows:
        (model,) = self.pack.run(
            "BIVDiffBorrowControl",
            model=self.video,
            image_model=self.image,
            with_control=self.controlled[0],
            without_control=self.prompt,
        )
        alone, controlled = (
            self.run_ksampler(m, self.prompt, self.blank, seed=1, cfg=1.0) for m in (self.video, model)
        )
        return {
            "The control: outlines, one for each frame": toy_world.canny_hints(self.source)[::2],
            "The video model alone, from noise": alone,
            "With the control of the image model, from the same noise": controlled,
        }

    def BIVDiffLatentReport(self) -> Rows:
        plot = self.pack.run("BIVDiffLatentReport", latent=self.frames)[0]
        return {"Encoded frames, wired in by mistake: alarm": plot}

    def BIVDiffTemporalReport(self) -> Rows:
        images, reference = self.decode(self.smooth_blend(1.0)), self.decode(self.frames)
        plot = self.pack.run(
            "BIVDiffTemporalReport", images=images, reference_images=reference, source_images=self.source
        )[0]
        return {"images: smoothed; reference_images: frame-wise; source_images: the clip": plot}

    def BIVDiffRatioList(self) -> Rows:
        grid, _ = self.sweep_ratios()
        return {"0, 0.25, 0.5, 0.75, 1: one run, five videos (a frame of Sweep Grid)": grid[4:5]}

    def BIVDiffSweepGrid(self) -> Rows:
        grid, plot = self.sweep_ratios()
        return {"grid: two of its frames": grid[[2, 5]], "plot: shows which ratio to choose": plot}

    def BIVDiffModeList(self) -> Rows:
        (modes,) = self.pack.run("BIVDiffModeList", modes="linear, variance_preserving, slerp, frequency")
        grid, _ = self.sweep([self.smooth_blend(0.5, mode) for mode in modes], labels=modes)
        return {"All modes at mixing_ratio 0.5: one run, four videos (a frame of Sweep Grid)": grid[4:5]}

    def BIVDiffSolverList(self) -> Rows:
        (solvers,) = self.pack.run("BIVDiffSolverList", solvers="ddim, uni_inv, fireflow, fixed_point")
        inverted = [self.invert_image(self.frames, self.empty, 1.0, solver=solver, steps=5) for solver in solvers]
        grid, _ = self.sweep([self.smooth(latent, self.prompt) for latent in inverted], labels=solvers)
        return {"All solvers with 5 inversion steps: one run, four videos (a frame of Sweep Grid)": grid[4:5]}


def show_compare_videos(comfy: ComfyUIPage) -> Image.Image:
    """The node at its first frame, after a run of the demo workflow."""
    comfy.load(json.loads(WORKFLOW.read_text(encoding="utf-8")), "demo")
    comfy.run()
    comfy.page.get_by_label("frame", exact=True).fill("0")
    return screenshot_nodes(comfy, ["BIVDiffCompareVideos"])


def show_video_model_loader(comfy: ComfyUIPage) -> Image.Image:
    """The node in a graph, with the nodes that its outputs are wired to."""
    g = WorkflowGraph("loader", comfy.server.object_info(), demo=False)
    g.group("", "")
    clip = g.add("GetVideoComponents", video=g.add("BIVDiffDemoClip", frames=64))
    g.column()
    loaded = g.add("BIVDiffVideoModelLoader", name=MODEL)
    g.column()
    text = g.add("CLIPTextEncode", clip=loaded["CLIP"], text="")
    frames = g.add("BIVDiffEncodeFrames", vae=loaded["VAE"], images=clip["images"])
    g.column()
    inverse = g.add("BIVDiffInvertVideo", model=loaded["MODEL"], conditioning=text, latent=frames)
    comfy.load({**g.ui(), "groups": []}, "loader")
    return screenshot_nodes(comfy, [node.class_type for node in (loaded, text, frames, inverse)])


def show_node(comfy: ComfyUIPage, node_id: str) -> Image.Image:
    """A node with its inputs, as the frontend adds it."""
    comfy.load({"nodes": [], "links": [], "groups": [], "version": 0.4}, "node")
    comfy.page.evaluate("type => void app.rootGraph.add(LiteGraph.createNode(type))", node_id)
    return screenshot_nodes(comfy, [node_id])


SCREENSHOTS = {"BIVDiffCompareVideos": show_compare_videos, "BIVDiffVideoModelLoader": show_video_model_loader}


def screenshot_nodes(comfy: ComfyUIPage, types: list[str]) -> Image.Image:
    """A screenshot of the part of the graph that contains the nodes of these types."""
    left, top, right, bottom = comfy.page.evaluate(
        """types => {
          const boxes = app.rootGraph.nodes.filter(node => types.includes(node.type)).map(node => node.boundingRect);
          const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])) - 20);
          const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])) + 20);
          app.canvas.ds.scale = 1;
          app.canvas.ds.offset = [100 - left, 100 - top];
          app.canvas.setDirty(true, true);
          const corners = [[left, top], [right, bottom]].map(at => app.canvas.ds.convertOffsetToCanvas(at));
          const page = app.canvas.canvas.getBoundingClientRect();
          return corners.flatMap(([x, y]) => [x + page.left, y + page.top]);
        }""",
        types,
    )
    comfy.page.wait_for_timeout(2000)  # the page redraws
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return Image.open(BytesIO(comfy.page.screenshot(clip=clip))).convert("RGB")


def save(node_id: str, picture: Image.Image) -> None:
    """Save a node's picture, with the first quality that keeps it below MAX_BYTES."""
    path = PAGES / f"{node_id}.jpg"
    for quality in QUALITIES:
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    print(node_id, flush=True)


def save_screenshots(node_ids: list[str]) -> None:
    """Save the pictures of nodes that are screenshots."""
    with tempfile.TemporaryDirectory() as base:
        # A folder with the model's name, so that the frontend does not show the model as missing.
        config = Path(base, "models", "diffusers", MODEL, "unet", "config.json")
        config.parent.mkdir(parents=True)
        config.write_text('{"_class_name": "UNet3DConditionModel"}')
        with (
            ComfyUIServer(sys.executable, COMFYUI, Path(base), cpu=True) as server,
            launch_chromium() as browser,
            open_comfyui(browser, server, "vue") as comfy,
        ):
            comfy.page.evaluate("app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None')")
            for node_id in node_ids:
                show = SCREENSHOTS.get(node_id)
                save(node_id, show(comfy) if show else show_node(comfy, node_id))


def main() -> None:
    """Make the pictures of the named nodes, or of all nodes."""
    node_ids = sys.argv[1:] or sorted(page.stem for page in PAGES.glob("*.md"))
    if drawn := [node_id for node_id in node_ids if hasattr(HelpPictures, node_id)]:
        pictures = HelpPictures()
        for node_id in drawn:
            save(node_id, pictures.draw(node_id))
    if screenshots := [node_id for node_id in node_ids if node_id not in drawn]:
        save_screenshots(screenshots)


if __name__ == "__main__":
    main()
