"""Make the pictures of the help pages, js/docs/<node id>.jpg: results of each node on the demo models.

    python -m tools.pictures [NODE_ID ...]

Clip, prompt and settings are those of the demo workflow, unless a picture is about one of them. Two nodes are shown as
screenshots of the frontend in Chromium.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
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
from tools.browser import ComfyUIPage, launch_chromium, open_comfyui
from tools.demo import WORKFLOW
from tools.in_process_comfyui import COMFYUI
from tools.workflow_graph import WorkflowGraph
from tools.workflow_parts import SOURCE_COLOUR

ROOT = Path(__file__).resolve().parents[1]

PAGES = ROOT / "js" / "docs"
STRENGTH, RATIO = 1.0, 1.0
WIDTH, GAP = 720, 4
LETTERS, SIZE, LINE, INK = 54, 27, 36, "#222"
"""Captions: letters per line, font size, line height in pixels, colour. Large: the help panel is 280 pixels wide."""

QUALITIES, MAX_BYTES = (60, 45), 80_000
"""JPEG qualities to try in order, until a file has at most MAX_BYTES."""

Rows = dict[str, Tensor]
"""Rows of pictures `[N, H, W, 3]` in 0..1, by the caption above the row."""


def sheet(rows: Rows) -> Image.Image:
    """Every row below its caption, at the full width."""
    strips = [
        strip for caption, pictures in rows.items() for strip in (*map(line, wrap(caption, LETTERS)), row(pictures))
    ]
    page = Image.new("RGB", (WIDTH, sum(strip.height for strip in strips)), "white")
    y = 0
    for strip in strips:
        page.paste(strip, (0, y))
        y += strip.height
    return page


def line(text: str) -> Image.Image:
    """One line of a caption."""
    strip = Image.new("RGB", (WIDTH, LINE), "white")
    ImageDraw.Draw(strip).text((GAP, LINE / 2), text, INK, ImageFont.load_default(SIZE), anchor="lm")
    return strip


def row(pictures: Tensor) -> Image.Image:
    """Pictures `[N, H, W, 3]` side by side."""
    tiles = [tile(picture, len(pictures)) for picture in pictures]
    strip = Image.new("RGB", (WIDTH, tiles[0].height + GAP), "white")
    for i, picture in enumerate(tiles):
        strip.paste(picture, (round(i * (WIDTH + GAP) / len(tiles)), 0))
    return strip


def tile(picture: Tensor, beside: int) -> Image.Image:
    """A picture `[H, W, 3]`, scaled so that ``beside`` pictures fill the width."""
    width = round((WIDTH + GAP) / beside) - GAP
    height = round(width * picture.shape[0] / picture.shape[1])
    return to_pil_image(picture.movedim(-1, 0)).resize((width, height), Image.Resampling.BICUBIC)


def every_other_frame(frames: Tensor) -> Tensor:
    """Every second frame, so that the pictures are large enough."""
    return frames[::2]


class DemoRun(DemoChain):
    """The demo workflow's chain on its clip; each stage is computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.source = toy_world.packaged_clip().frames
        self.prompt = self.encode_text("a blue square, patchy")
        self.controlled = self.apply_outline_control(self.source, self.prompt)
        self.blank = self.empty_latent(len(self.source))

    @cached_property
    def frames(self) -> dict:
        """The frame-wise frames, a LATENT."""
        return self.generate_frames(*self.controlled, self.blank, seed=0)

    @cached_property
    def inverted(self) -> tuple[dict, dict]:
        """The frames inverted by the image model and by the video model."""
        return tuple(invert(self.frames, self.prompt, STRENGTH) for invert in (self.invert_image, self.invert_video))

    def smooth_at_ratio(self, ratio: float) -> Tensor:
        """The smoothed video at a mixing ratio."""
        return self.decode(self.smooth(self.blend(*self.inverted, ratio), self.prompt))

    def sample_and_decode(self, guider, noise, sampler: str = "ddim", model=None) -> Tensor:
        """Frames sampled with SamplerCustomAdvanced."""
        return self.decode(self.run_custom_sampler(guider, noise, self.blank, sampler=sampler, model=model))

    def make_cfg_guider(self, model, positive: list, negative: list, cfg: float):
        """Core's CFGGuider."""
        return self.pack.run("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)[0]


# The pictures


def frame_sampler(demo: DemoRun) -> Rows:
    """Control hints, and the frames that follow them."""
    return {
        "The control: outlines, one for each frame": every_other_frame(toy_world.canny_hints(demo.source)),
        'Independently generated, "a blue square": they follow it, and flicker': every_other_frame(
            demo.decode(demo.frames)
        ),
    }


def invert_image(demo: DemoRun) -> Rows:
    """A frame inverted to several strengths, and denoised again from each."""
    inverted = [demo.invert_image(demo.frames, demo.prompt, strength) for strength in (0.25, 0.5, 0.75, 1.0)]
    denoised = [demo.denoise_by_frame(latent, demo.prompt, demo.empty) for latent in inverted]
    captions = {
        "A frame, and inverted to strength 0.25, 0.5, 0.75 and 1 (decoded)": inverted,
        "Denoised again by the same model": denoised,
    }
    return {
        caption: torch.cat([demo.decode(latent)[:1] for latent in (demo.frames, *row)])
        for caption, row in captions.items()
    }


def invert_video(demo: DemoRun) -> Rows:
    """Frames, the inverted frames, and the video model's reconstruction."""
    noise = demo.invert_video(demo.frames, demo.prompt, 1.0)
    return {
        "Frames of the image model": every_other_frame(demo.decode(demo.frames)),
        "The output: noise (decoded)": every_other_frame(demo.decode(noise)),
        "Denoised again by the same model: the frames return, with their flicker": every_other_frame(
            demo.decode(demo.smooth(noise, demo.prompt))
        ),
    }


def mixed_inversion(demo: DemoRun) -> Rows:
    """The smoothed video at several mixing ratios."""
    rows = {
        0.0: "mixing_ratio 0, the video branch alone: close to the frames",
        0.5: "mixing_ratio 0.5",
        1.0: "mixing_ratio 1, the image branch alone: less flicker, further from the frames",
    }
    return {
        "Frames of the image model": every_other_frame(demo.decode(demo.frames)),
        **{caption: every_other_frame(demo.smooth_at_ratio(ratio)) for ratio, caption in rows.items()},
    }


def temporal_smoother(demo: DemoRun) -> Rows:
    """Frames, inverted frames, smoothed video."""
    return {
        "Frames of the image model": every_other_frame(demo.decode(demo.frames)),
        f"The input: the inverted frames (strength {STRENGTH:g}, decoded)": every_other_frame(
            demo.decode(demo.blend(*demo.inverted, RATIO))
        ),
        "The output: the smoothed video": every_other_frame(demo.smooth_at_ratio(RATIO)),
    }


def inverted_noise(demo: DemoRun) -> Rows:
    """The inverted latent denoised by a suitable and by an unsuitable core sampler."""
    (noise,) = demo.pack.run("BIVDiffInvertedNoise", latent=demo.invert_video(demo.frames, demo.prompt, 1.0))
    guider = demo.make_cfg_guider(demo.video, demo.prompt, demo.empty, 1.0)
    return {
        "Frames of the image model, inverted and wired to SamplerCustomAdvanced": every_other_frame(
            demo.decode(demo.frames)
        ),
        "Sampler ddim: the frames return": every_other_frame(demo.sample_and_decode(guider, noise, "ddim", demo.video)),
        "Sampler euler_ancestral adds noise: the frames are lost": every_other_frame(
            demo.sample_and_decode(guider, noise, "euler_ancestral", demo.video)
        ),
    }


def save_latent(demo: DemoRun) -> Rows:
    """Frames inverted to strength 0.5, smoothed with the latent's record and without it."""
    inverted = demo.invert_image(demo.frames, demo.prompt, 0.5)
    without_record = {"samples": inverted["samples"]}  # as saved by core's Save Latent
    return {
        "Frames of the image model, inverted to strength 0.5 and saved": every_other_frame(demo.decode(demo.frames)),
        "Loaded and smoothed: the latent records its noise level": every_other_frame(
            demo.decode(demo.smooth(inverted, demo.prompt))
        ),
        "Saved by core's Save Latent: treated as full noise, strength 1": every_other_frame(
            demo.decode(demo.smooth(without_record, demo.prompt))
        ),
    }


def load_latent(demo: DemoRun) -> Rows:
    """Saved inversions, and three videos made from them."""
    image, video = demo.inverted
    ratios = (0.0, 0.5, 1.0)
    return {
        "Two inversions, saved once": every_other_frame(demo.decode(image)),
        **{
            f"Loaded, blended at mixing ratio {ratio:g} and smoothed": every_other_frame(
                demo.decode(demo.smooth(demo.blend(image, video, ratio), demo.prompt))
            )
            for ratio in ratios
        },
    }


def frame_noise(demo: DemoRun) -> Rows:
    """The same outlines with each kind of noise. The prompt names every colour, so that only the noise differs."""
    prompt = demo.encode_text("a blue square on a yellow background, patchy")
    guider = demo.make_cfg_guider(demo.image, *demo.apply_outline_control(demo.source, prompt), 3.0)
    captions = {
        "independent": "independent: texture jumps from frame to frame",
        "shared": "shared: texture stays, and sticks to the screen while the square moves",
        "progressive": "progressive: texture changes slowly",
    }
    noise = {mode: demo.frame_noise(0, mode) for mode in captions}
    return {
        caption: every_other_frame(demo.sample_and_decode(guider, noise[mode])) for mode, caption in captions.items()
    }


def frame_chunks(demo: DemoRun) -> Rows:
    """KSampler with and without chunks."""
    (chunked,) = demo.pack.run("BIVDiffFrameChunks", model=demo.image, frames_per_batch=3)
    whole, in_chunks = (
        demo.decode(demo.run_ksampler(model, demo.controlled[0], demo.blank, seed=0)) for model in (demo.image, chunked)
    )
    return {
        "KSampler, 8 frames at once": every_other_frame(whole),
        "KSampler behind Frame Chunks, 3 at a time": every_other_frame(in_chunks),
        "The difference, ten times as bright: nothing": every_other_frame(
            (in_chunks - whole).abs().mul(10).clamp(0, 1)
        ),
    }


def select_frames(demo: DemoRun) -> Rows:
    """A clip, and the selected frames at their places."""
    selected, *_ = demo.pack.run("BIVDiffSelectFrames", images=demo.source, start=1, stride=2, count=3, fps=8.0)
    placed = torch.ones_like(demo.source)
    placed[[1, 3, 5]] = selected
    return {
        "A clip of 8 frames, 8 a second": demo.source,
        "start 1, stride 2, count 3: frames 1, 3 and 5 of 0 to 7, 4 a second": placed,
    }


def encode_frames(demo: DemoRun) -> Rows:
    """Frames, their latents, and the decoded frames."""
    latent = demo.pack.run("BIVDiffEncodeFrames", vae=demo.vae, images=demo.source, stride=1, mode="single_frames")[0]
    form = demo.image.get_model_object("latent_format")
    colours = torch.tensor(form.latent_rgb_factors), torch.tensor(form.latent_rgb_factors_bias)
    small = form.process_in(latent["samples"]).movedim(1, -1) @ colours[0] + colours[1]
    large = ((small + 1) / 2).clamp(0, 1).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    return {
        "The frames": every_other_frame(demo.source),
        "Their latents: an eighth as wide, in approximate colours": every_other_frame(large),
        "Decoded again": every_other_frame(demo.decode(latent)),
    }


def prompt2prompt(demo: DemoRun) -> Rows:
    """An edit of one word."""
    source, target = ("a blue square on a yellow background, patchy", "a red square on a yellow background, patchy")
    edited, rebuilt = demo.edit_prompt(demo.source, source, target, "blue red")
    return {
        f"The clip: {source}": every_other_frame(demo.source),
        f"edited: {target}": every_other_frame(demo.decode(edited)),
        "reconstructed: what the inversion and cfg lose without an edit": every_other_frame(demo.decode(rebuilt)),
    }


def demo_models(demo: DemoRun) -> Rows:
    """Samples of the demo models."""
    words = ("a red star on yellow", "a green circle on pink", "a purple cross on white", "a blue triangle on orange")
    frame = {"samples": demo.blank["samples"][:1]}
    pictures = [
        demo.generate_frames(demo.encode_text(f"{text} background"), demo.empty, frame, seed=0) for text in words
    ]
    clip = demo.run_ksampler(
        demo.video, demo.encode_text("a red star on a yellow background, patchy"), demo.blank, seed=1
    )
    return {
        "image_model: a red star, a green circle, a purple cross, a blue triangle": torch.cat(
            [demo.decode(picture) for picture in pictures]
        ),
        "with CONTROL_NET: a blue square, following a clip's outlines": every_other_frame(demo.decode(demo.frames)),
        "video_model: a clip of a red star on a yellow background": every_other_frame(demo.decode(clip)),
    }


def demo_clip(demo: DemoRun) -> Rows:
    """Frames of the demo clip."""
    (video,) = demo.pack.run("BIVDiffDemoClip")
    return {"Every seventh of its 64 frames": video.get_components().images[::7]}


def bridge_guider(demo: DemoRun) -> Rows:
    """The image model alone, and both models together."""
    noise = demo.frame_noise(0, "independent")

    def bridged(image_share: float) -> Tensor:
        return demo.sample_and_decode(
            demo.make_bridge_guider(demo.controlled, demo.prompt, 3.0, "parallel", image_share), noise
        )

    return {
        "image_share 1: the image model alone, with its ControlNet": every_other_frame(bridged(1.0)),
        "image_share 0.5: both models in every step": every_other_frame(bridged(0.5)),
    }


def latent_report(demo: DemoRun) -> Rows:
    """The report on a latent that is wired in by mistake."""
    return {
        "Encoded frames, wired in by mistake: alarm": demo.pack.run("BIVDiffLatentReport", latent=demo.frames)[0],
    }


def temporal_report(demo: DemoRun) -> Rows:
    """The report on the demo, before and after smoothing."""
    plot = demo.pack.run(
        "BIVDiffTemporalReport",
        images=demo.smooth_at_ratio(RATIO),
        reference_images=demo.decode(demo.frames),
        source_images=demo.source,
    )[0]
    return {"images: smoothed; reference_images: frame-wise; source_images: the clip": plot}


def make_sweep(demo: DemoRun, videos: list[Tensor], **names: list) -> tuple[Tensor, Tensor]:
    """Sweep Grid's video and plot, with the frame-wise frames as reference."""
    return demo.pack.run("BIVDiffSweepGrid", images=videos, reference_images=[demo.decode(demo.frames)], **names)


def ratios(demo: DemoRun) -> tuple[Tensor, Tensor]:
    """The sweep of a Mixing Ratio List."""
    (ratios,) = demo.pack.run("BIVDiffRatioList", ratios="0, 0.25, 0.5, 0.75, 1")
    return make_sweep(demo, [demo.smooth_at_ratio(ratio) for ratio in ratios], ratios=ratios)


def ratio_list(demo: DemoRun) -> Rows:
    """One frame of Sweep Grid for the list."""
    return {"0, 0.25, 0.5, 0.75, 1: one run, five videos (a frame of Sweep Grid)": ratios(demo)[0][4:5]}


def sweep_grid(demo: DemoRun) -> Rows:
    """Two frames of the grid, and the plot."""
    grid, plot = ratios(demo)
    return {"grid: two of its frames": grid[[2, 5]], "plot: shows which ratio to choose": plot}


def mode_list(demo: DemoRun) -> Rows:
    """One frame of Sweep Grid for the list."""
    (modes,) = demo.pack.run("BIVDiffModeList", modes="linear, variance_preserving, slerp, frequency")
    mixed = [demo.blend(*demo.inverted, 0.5, mode) for mode in modes]
    grid, _ = make_sweep(demo, [demo.decode(demo.smooth(latent, demo.prompt)) for latent in mixed], labels=modes)
    return {"All modes at mixing_ratio 0.5: one run, four videos (a frame of Sweep Grid)": grid[4:5]}


def solver_list(demo: DemoRun) -> Rows:
    """One frame of Sweep Grid for the list."""
    (solvers,) = demo.pack.run("BIVDiffSolverList", solvers="ddim, uni_inv, fireflow, fixed_point")
    inverted = [demo.invert_image(demo.frames, demo.prompt, 1.0, solver=solver, steps=5) for solver in solvers]
    grid, _ = make_sweep(demo, [demo.decode(demo.smooth(latent, demo.prompt)) for latent in inverted], labels=solvers)
    return {"All solvers with 5 inversion steps: one run, four videos (a frame of Sweep Grid)": grid[4:5]}


def average_along_motion(demo: DemoRun) -> Rows:
    """Frames averaged with two values of reach, and the mask of the larger."""
    frames = demo.decode(demo.frames)
    near, _ = demo.pack.run("BIVDiffAverageAlongMotion", images=frames, motion_from=demo.source, reach=1)
    far, share = demo.pack.run("BIVDiffAverageAlongMotion", images=frames, motion_from=demo.source, reach=7)
    return {
        "Frames of the image model": every_other_frame(frames),
        "reach 1": every_other_frame(near),
        "reach 7: less flicker, but softer where textures differ": every_other_frame(far),
        "mask at 7: the share of adjacent frames used": every_other_frame(share[..., None].expand_as(far)),
    }


PICTURES: dict[str, Callable[[DemoRun], Rows]] = {
    "BIVDiffFrameSampler": frame_sampler,
    "BIVDiffInvertImage": invert_image,
    "BIVDiffInvertVideo": invert_video,
    "BIVDiffMixedInversion": mixed_inversion,
    "BIVDiffTemporalSmoother": temporal_smoother,
    "BIVDiffInvertedNoise": inverted_noise,
    "BIVDiffSaveLatent": save_latent,
    "BIVDiffLoadLatent": load_latent,
    "BIVDiffFrameNoise": frame_noise,
    "BIVDiffFrameChunks": frame_chunks,
    "BIVDiffSelectFrames": select_frames,
    "BIVDiffAverageAlongMotion": average_along_motion,
    "BIVDiffEncodeFrames": encode_frames,
    "BIVDiffPrompt2Prompt": prompt2prompt,
    "BIVDiffDemoModels": demo_models,
    "BIVDiffDemoClip": demo_clip,
    "BIVDiffBridgeGuider": bridge_guider,
    "BIVDiffLatentReport": latent_report,
    "BIVDiffTemporalReport": temporal_report,
    "BIVDiffRatioList": ratio_list,
    "BIVDiffSweepGrid": sweep_grid,
    "BIVDiffModeList": mode_list,
    "BIVDiffSolverList": solver_list,
}


# Screenshots of the frontend


def compare_videos(comfy: ComfyUIPage) -> Image.Image:
    """The node at its first frame, after a run of the demo workflow."""
    comfy.load(json.loads(WORKFLOW.read_text(encoding="utf-8")), "demo")
    comfy.run()
    comfy.page.get_by_label("frame", exact=True).fill("0")
    return screenshot_nodes(comfy, ["BIVDiffCompareVideos"])


def video_model_loader(comfy: ComfyUIPage) -> Image.Image:
    """The node in a graph, with the nodes that its outputs are wired to."""
    g = WorkflowGraph("loader", comfy.server.object_info(), demo=False)
    g.group("", SOURCE_COLOUR)
    clip = g.add("GetVideoComponents", video=g.add("BIVDiffDemoClip"))
    g.column()
    loaded = g.add("BIVDiffVideoModelLoader", name=MODEL)
    g.column()
    text = g.add("CLIPTextEncode", clip=loaded["CLIP"], text="")
    frames = g.add("BIVDiffEncodeFrames", vae=loaded["VAE"], images=clip["images"])
    g.column()
    g.add("BIVDiffInvertVideo", model=loaded["MODEL"], conditioning=text, latent=frames)
    comfy.load({**g.ui(), "groups": []}, "loader")
    return screenshot_nodes(
        comfy, ["BIVDiffVideoModelLoader", "CLIPTextEncode", "BIVDiffEncodeFrames", "BIVDiffInvertVideo"]
    )


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


MODEL = "zeroscope_v2_576w"
"""`main` creates a folder of this name, so that the frontend does not show the model as missing."""

NODE_SCREENSHOTS: dict[str, Callable[[ComfyUIPage], Image.Image]] = {
    "BIVDiffCompareVideos": compare_videos,
    "BIVDiffVideoModelLoader": video_model_loader,
}


def main() -> None:
    """Make the pictures of the named nodes, or of all nodes."""
    named = set(sys.argv[1:]) or {*PICTURES, *NODE_SCREENSHOTS}
    if named & set(PICTURES):
        demo = DemoRun()
        for node_id in sorted(named & set(PICTURES)):
            save(node_id, sheet(PICTURES[node_id](demo)))
    if named & set(NODE_SCREENSHOTS):
        with tempfile.TemporaryDirectory() as base:
            config = Path(base, "models", "diffusers", MODEL, "unet", "config.json")
            config.parent.mkdir(parents=True)
            config.write_text('{"_class_name": "UNet3DConditionModel"}')
            save_screenshots(sorted(named & set(NODE_SCREENSHOTS)), Path(base))


def save_screenshots(node_ids: list[str], base: Path) -> None:
    """Save screenshots of nodes, from a server that reads and writes in `base`."""
    with (
        ComfyUIServer(sys.executable, COMFYUI, base, cpu=True) as server,
        launch_chromium() as browser,
        open_comfyui(browser, server, "vue") as comfy,
    ):
        comfy.page.evaluate("app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None')")
        for node_id in node_ids:
            save(node_id, NODE_SCREENSHOTS[node_id](comfy))


def save(node_id: str, picture: Image.Image) -> None:
    """Save a node's picture, with the first quality that keeps it below MAX_BYTES."""
    path = PAGES / f"{node_id}.jpg"
    for quality in QUALITIES:
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    print(node_id, flush=True)


if __name__ == "__main__":
    main()
