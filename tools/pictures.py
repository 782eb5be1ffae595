"""The help pages' pictures, js/docs/<node id>.jpg: what each node did in a run on the demo models.

    python -m tools.pictures [NODE_ID ...]

The clip, its prompt and the settings are the demo workflow's unless a picture is about one of them. Two nodes are
shown as the page shows them, in Chromium.
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
from research.demo_chain import DemoChain, start
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
"""Of captions: letters and pixels that a line takes, so large because the help's panel shows the page at 280 pixels."""

QUALITIES, MAX_BYTES = (60, 45), 80_000
"""Of the JPEGs: the first that keeps one to so many bytes."""

Rows = dict[str, Tensor]
"""Pictures `[N, H, W, 3]` in 0..1 to stand side by side, by what is said above them."""


def sheet(rows: Rows) -> Image.Image:
    """Every row under its caption, as wide as the page."""
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
    """A line of a caption."""
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
    """One of so many pictures `[H, W, 3]` that fill the page's width."""
    width = round((WIDTH + GAP) / beside) - GAP
    height = round(width * picture.shape[0] / picture.shape[1])
    return to_pil_image(picture.movedim(-1, 0)).resize((width, height), Image.Resampling.BICUBIC)


def every_other_frame(frames: Tensor) -> Tensor:
    """Every other frame, so that they are large enough to be seen."""
    return frames[::2]


class DemoRun(DemoChain):
    """The demo workflow's chain on its clip, each stage computed once."""

    def __init__(self) -> None:
        super().__init__(start())
        self.source = toy_world.packaged_clip().frames
        self.prompt = self.encode_text("a blue square, patchy")
        self.controlled = self.outlined(self.source, self.prompt)
        self.blank = self.nothing(len(self.source))

    @cached_property
    def drawn(self) -> dict:
        """The frame-wise frames, a LATENT."""
        return self.draw(*self.controlled, self.blank, seed=0)

    @cached_property
    def inverted(self) -> tuple[dict, dict]:
        """They as noise, by the image model and by the video model."""
        return tuple(invert(self.drawn, self.prompt, STRENGTH) for invert in (self.invert_image, self.invert_video))

    def smoothed(self, ratio: float) -> Tensor:
        """The clip's frames at a mixing ratio."""
        return self.decode(self.smooth(self.blend(*self.inverted, ratio), self.prompt))

    def custom(self, guider, noise, sampler: str = "ddim", model=None) -> Tensor:
        """Frames out of SamplerCustomAdvanced."""
        return self.decode(self.sample_custom(guider, noise, self.blank, sampler=sampler, model=model))

    def guider(self, model, positive: list, negative: list, cfg: float):
        """Core's CFGGuider."""
        return self.pack.run("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)[0]


# The pictures


def frame_sampler(demo: DemoRun) -> Rows:
    """Hints, and the frames that follow them."""
    return {
        "The control: outlines, one for each frame": every_other_frame(toy_world.canny_hints(demo.source)),
        'Drawn one by one, "a blue square": they follow it, and flicker': every_other_frame(demo.decode(demo.drawn)),
    }


def invert_image(demo: DemoRun) -> Rows:
    """A frame on its way to noise, and back from each stop."""
    stops = [demo.invert_image(demo.drawn, demo.prompt, strength) for strength in (0.25, 0.5, 0.75, 1.0)]
    back = [demo.redraw(stop, demo.prompt, demo.empty) for stop in stops]
    captions = {
        "A frame, and its noise at strength 0.25, 0.5, 0.75 and 1, decoded to be seen": stops,
        "Denoised again by the same model": back,
    }
    return {
        caption: torch.cat([demo.decode(each)[:1] for each in (demo.drawn, *row)]) for caption, row in captions.items()
    }


def invert_video(demo: DemoRun) -> Rows:
    """Frames, their noise, and what the video model makes of it alone."""
    noise = demo.invert_video(demo.drawn, demo.prompt, 1.0)
    return {
        "Frame-wise frames": every_other_frame(demo.decode(demo.drawn)),
        "The output: noise, decoded here to be seen": every_other_frame(demo.decode(noise)),
        "Denoised from it by the same model: the frames again, flicker too": every_other_frame(
            demo.decode(demo.smooth(noise, demo.prompt))
        ),
    }


def mixed_inversion(demo: DemoRun) -> Rows:
    """What ratios do."""
    rows = {
        0.0: "mixing_ratio 0, the video branch alone: close to the frames",
        0.5: "mixing_ratio 0.5",
        1.0: "mixing_ratio 1, the image branch alone: steady, further from the frames",
    }
    return {
        "Frame-wise frames": every_other_frame(demo.decode(demo.drawn)),
        **{caption: every_other_frame(demo.smoothed(ratio)) for ratio, caption in rows.items()},
    }


def temporal_smoother(demo: DemoRun) -> Rows:
    """Before, in between, after."""
    return {
        "Frame-wise frames": every_other_frame(demo.decode(demo.drawn)),
        f"The input: their noise (strength {STRENGTH:g}), decoded to be seen": every_other_frame(
            demo.decode(demo.blend(*demo.inverted, RATIO))
        ),
        "The output: one steady clip": every_other_frame(demo.smoothed(RATIO)),
    }


def inverted_noise(demo: DemoRun) -> Rows:
    """The inverted latent through a core sampler, well and badly."""
    (noise,) = demo.pack.run("BIVDiffInvertedNoise", latent=demo.invert_video(demo.drawn, demo.prompt, 1.0))
    guider = demo.guider(demo.video, demo.prompt, demo.empty, 1.0)
    return {
        "Frame-wise frames, inverted and handed to SamplerCustomAdvanced": every_other_frame(demo.decode(demo.drawn)),
        "Its sampler is ddim: it finds the frames again": every_other_frame(
            demo.custom(guider, noise, "ddim", demo.video)
        ),
        "euler_ancestral adds noise of its own: the frames are lost": every_other_frame(
            demo.custom(guider, noise, "euler_ancestral", demo.video)
        ),
    }


def save_latent(demo: DemoRun) -> Rows:
    """Frames inverted halfway, what the smoother makes of them, and what it makes of them without their description."""
    inverted = demo.invert_image(demo.drawn, demo.prompt, 0.5)
    bare = {"samples": inverted["samples"]}  # what core's Save Latent keeps
    return {
        "Frame-wise frames, inverted to strength 0.5 and saved": every_other_frame(demo.decode(demo.drawn)),
        "Loaded and smoothed: the latent says where it stopped": every_other_frame(
            demo.decode(demo.smooth(inverted, demo.prompt))
        ),
        "Saved by core's Save Latent: taken for full noise, strength 1": every_other_frame(
            demo.decode(demo.smooth(bare, demo.prompt))
        ),
    }


def load_latent(demo: DemoRun) -> Rows:
    """One inversion, saved, and three videos made of it."""
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
    """The same outlines from noise of each kind; the prompt leaves no colour open, so that the noise is what shows."""
    prompt = demo.encode_text("a blue square on a yellow background, patchy")
    guider = demo.guider(demo.image, *demo.outlined(demo.source, prompt), 3.0)
    captions = {
        "independent": "independent: texture jumps from frame to frame",
        "shared": "shared: texture stays, and sticks to the screen while the square moves",
        "progressive": "progressive: texture changes slowly",
    }
    noise = {mode: demo.frame_noise(0, mode) for mode in captions}
    return {caption: every_other_frame(demo.custom(guider, noise[mode])) for mode, caption in captions.items()}


def frame_chunks(demo: DemoRun) -> Rows:
    """KSampler with and without chunks."""
    (chunked,) = demo.pack.run("BIVDiffFrameChunks", model=demo.image, frames_per_batch=3)
    whole, parts = (
        demo.decode(demo.sample(model, demo.controlled[0], demo.blank, seed=0)) for model in (demo.image, chunked)
    )
    return {
        "KSampler, 8 frames at once": every_other_frame(whole),
        "KSampler behind Frame Chunks, 3 at a time": every_other_frame(parts),
        "What they differ by, ten times as bright: nothing": every_other_frame(
            (parts - whole).abs().mul(10).clamp(0, 1)
        ),
    }


def select_frames(demo: DemoRun) -> Rows:
    """A filmstrip and what is taken out of it, in its place."""
    taken, *_ = demo.pack.run("BIVDiffSelectFrames", images=demo.source, start=1, stride=2, count=3, fps=8.0)
    placed = torch.ones_like(demo.source)
    placed[[1, 3, 5]] = taken
    return {
        "A clip of 8 frames, 8 a second": demo.source,
        "start 1, stride 2, count 3: frames 1, 3 and 5 of 0 to 7, 4 a second": placed,
    }


def encode_frames(demo: DemoRun) -> Rows:
    """Frames, their latents, and the frames again."""
    latent = demo.pack.run("BIVDiffEncodeFrames", vae=demo.vae, images=demo.source, stride=1, mode="single_frames")[0]
    form = demo.image.get_model_object("latent_format")
    colours = torch.tensor(form.latent_rgb_factors), torch.tensor(form.latent_rgb_factors_bias)
    small = form.process_in(latent["samples"]).movedim(1, -1) @ colours[0] + colours[1]
    large = ((small + 1) / 2).clamp(0, 1).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    return {
        "The frames": every_other_frame(demo.source),
        "Their latents: an eighth as wide, here in like colours": every_other_frame(large),
        "Decoded again": every_other_frame(demo.decode(latent)),
    }


def prompt2prompt(demo: DemoRun) -> Rows:
    """A word changed."""
    source, target = ("a blue square on a yellow background, patchy", "a red square on a yellow background, patchy")
    edited, rebuilt = demo.edit_words(demo.source, source, target, "blue red")
    return {
        f"The clip: {source}": every_other_frame(demo.source),
        f"edited: {target}": every_other_frame(demo.decode(edited)),
        "reconstructed: what the inversion and cfg lose without an edit": every_other_frame(demo.decode(rebuilt)),
    }


def demo_models(demo: DemoRun) -> Rows:
    """What they can draw."""
    words = ("a red star on yellow", "a green circle on pink", "a purple cross on white", "a blue triangle on orange")
    frame = {"samples": demo.blank["samples"][:1]}
    pictures = [demo.draw(demo.encode_text(f"{text} background"), demo.empty, frame, seed=0) for text in words]
    clip = demo.sample(demo.video, demo.encode_text("a red star on a yellow background, patchy"), demo.blank, seed=1)
    return {
        "image_model: a red star, a green circle, a purple cross, a blue triangle": torch.cat(
            [demo.decode(picture) for picture in pictures]
        ),
        "with CONTROL_NET: a blue square, to a clip's outlines": every_other_frame(demo.decode(demo.drawn)),
        "video_model: a clip of a red star on a yellow background": every_other_frame(demo.decode(clip)),
    }


def demo_clip(demo: DemoRun) -> Rows:
    """Frames of it, on the way there and back."""
    (video,) = demo.pack.run("BIVDiffDemoClip")
    return {"Every seventh of its 64 frames": video.get_components().images[::7]}


def bridge_guider(demo: DemoRun) -> Rows:
    """The image model alone, and both together."""
    noise = demo.frame_noise(0, "independent")

    def bridged(image_share: float) -> Tensor:
        return demo.custom(demo.bridge(demo.controlled, demo.prompt, 3.0, "parallel", image_share), noise)

    return {
        "image_share 1: the image model alone, with its ControlNet": every_other_frame(bridged(1.0)),
        "image_share 0.5: both models in every step": every_other_frame(bridged(0.5)),
    }


def latent_report(demo: DemoRun) -> Rows:
    """What a wrong wire looks like in it."""
    return {
        "Encoded frames, wired in by mistake: alarm": demo.pack.run("BIVDiffLatentReport", latent=demo.drawn)[0],
    }


def temporal_report(demo: DemoRun) -> Rows:
    """The demo before and after."""
    plot = demo.pack.run(
        "BIVDiffTemporalReport",
        images=demo.smoothed(RATIO),
        reference_images=demo.decode(demo.drawn),
        source_images=demo.source,
    )[0]
    return {"images: smoothed; reference_images: frame-wise; source_images: the clip": plot}


def make_sweep(demo: DemoRun, videos: list[Tensor], **names: list) -> tuple[Tensor, Tensor]:
    """Sweep Grid's video and plot, the frame-wise frames before it."""
    return demo.pack.run("BIVDiffSweepGrid", images=videos, reference_images=[demo.decode(demo.drawn)], **names)


def ratios(demo: DemoRun) -> tuple[Tensor, Tensor]:
    """The sweep of a Mixing Ratio List."""
    (ratios,) = demo.pack.run("BIVDiffRatioList", ratios="0, 0.25, 0.5, 0.75, 1")
    return make_sweep(demo, [demo.smoothed(ratio) for ratio in ratios], ratios=ratios)


def ratio_list(demo: DemoRun) -> Rows:
    """One frame of what the list makes."""
    return {"0, 0.25, 0.5, 0.75, 1: one run, five videos (a frame of Sweep Grid)": ratios(demo)[0][4:5]}


def sweep_grid(demo: DemoRun) -> Rows:
    """Two frames of the grid, and the plot."""
    grid, plot = ratios(demo)
    return {"grid: two of its frames": grid[[2, 5]], "plot: which ratio to take": plot}


def mode_list(demo: DemoRun) -> Rows:
    """One frame of what the list makes."""
    (modes,) = demo.pack.run("BIVDiffModeList", modes="linear, variance_preserving, slerp, frequency")
    mixed = [demo.blend(*demo.inverted, 0.5, mode) for mode in modes]
    grid, _ = make_sweep(demo, [demo.decode(demo.smooth(each, demo.prompt)) for each in mixed], labels=modes)
    return {"All modes at mixing_ratio 0.5: one run, four videos (a frame of Sweep Grid)": grid[4:5]}


def solver_list(demo: DemoRun) -> Rows:
    """One frame of what the list makes."""
    (solvers,) = demo.pack.run("BIVDiffSolverList", solvers="ddim, uni_inv, fireflow, fixed_point")
    inverted = [demo.invert_image(demo.drawn, demo.prompt, 1.0, solver=solver, steps=5) for solver in solvers]
    grid, _ = make_sweep(demo, [demo.decode(demo.smooth(each, demo.prompt)) for each in inverted], labels=solvers)
    return {"All solvers with 5 inversion steps: one run, four videos (a frame of Sweep Grid)": grid[4:5]}


def average_along_motion(demo: DemoRun) -> Rows:
    """Frames at two reaches, and what took part in the longer."""
    frames = demo.decode(demo.drawn)
    near, _ = demo.pack.run("BIVDiffAverageAlongMotion", images=frames, motion_from=demo.source, reach=1)
    far, share = demo.pack.run("BIVDiffAverageAlongMotion", images=frames, motion_from=demo.source, reach=7)
    return {
        "Frame-wise": every_other_frame(frames),
        "reach 1": every_other_frame(near),
        "reach 7: steadier, and softer where textures differ": every_other_frame(far),
        "mask at 7: the share of neighbours used": every_other_frame(share[..., None].expand_as(far)),
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


# The page


def compare_videos(comfy: ComfyUIPage) -> Image.Image:
    """The node after a run of the demo workflow, on its first frame."""
    comfy.load(json.loads(WORKFLOW.read_text(encoding="utf-8")), "demo")
    comfy.run()
    comfy.page.get_by_label("frame", exact=True).fill("0")
    return screenshot_nodes(comfy, ["BIVDiffCompareVideos"])


def video_model_loader(comfy: ComfyUIPage) -> Image.Image:
    """The node and what its outputs are wired to, in the middle of a graph."""
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
    """The part of the graph that holds the nodes of some types, moved into view."""
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
"""A folder of this name stands where the loader looks, so that the page does not show it as missing."""

NODE_SCREENSHOTS: dict[str, Callable[[ComfyUIPage], Image.Image]] = {
    "BIVDiffCompareVideos": compare_videos,
    "BIVDiffVideoModelLoader": video_model_loader,
}


def main() -> None:
    """Make the named nodes' pictures, or all."""
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
    """Nodes as a page shows them whose server reads and writes under `base`."""
    with (
        ComfyUIServer(sys.executable, COMFYUI, base, cpu=True) as server,
        launch_chromium() as browser,
        open_comfyui(browser, server, "vue") as comfy,
    ):
        comfy.page.evaluate("app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None')")
        for node_id in node_ids:
            save(node_id, NODE_SCREENSHOTS[node_id](comfy))


def save(node_id: str, picture: Image.Image) -> None:
    """Keep a node's picture."""
    path = PAGES / f"{node_id}.jpg"
    for quality in QUALITIES:
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    print(node_id, flush=True)


if __name__ == "__main__":
    main()
