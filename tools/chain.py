"""BIVDiff on the demo models for benchmarks and pictures: the real nodes, one by one in a ComfyUI of this process."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from tools.host import Pack, use_comfyui

FRAME_CFG, SMOOTH_CFG = 3.0, 1.0
SCHEDULER = "ddim_uniform"


def start() -> Pack:
    """The pack inside ComfyUI, on a GPU if there is one, without the host's log and progress bars."""
    use_comfyui(cpu=not torch.accelerator.is_available())
    pack = Pack()
    logging.disable(logging.INFO)
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return pack


def device() -> str:
    """What the figures were measured on, in words."""
    return "a GPU" if torch.accelerator.is_available() else "a CPU"


class Chain:
    """The nodes of the chain on the demo models; settings that a benchmark does not name are the demo workflow's."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.image, self.video, self.clip, self.vae, self.control_net = pack.run("BIVDiffDemoModels", variant="base")
        self.world = pack.import_module("bivdiff_core.demo.world")
        self.measure = pack.import_module("bivdiff_core.demo.measure")
        self.empty = self.encode_text("")

    def encode_text(self, text: str) -> list:
        """The CONDITIONING of a caption."""
        return self.pack.run("CLIPTextEncode", clip=self.clip, text=text)[0]

    def encode(self, frames: Tensor) -> dict:
        """The LATENT of frames `[F, H, W, 3]`."""
        return self.pack.run("VAEEncode", vae=self.vae, pixels=frames)[0]

    def decode(self, latent: dict) -> Tensor:
        """Frames `[F, H, W, 3]` of a LATENT."""
        return self.pack.run("VAEDecode", vae=self.vae, samples=latent)[0]

    def outlined(self, frames: Tensor, positive: list) -> tuple[list, list]:
        """A prompt and the empty one with the ControlNet on what Canny sees in the frames `[F, H, W, 3]`."""
        return self.pack.run(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=self.empty,
            control_net=self.control_net,
            image=self.world.canny_control(frames),
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )

    def draw(
        self,
        positive: list,
        negative: list,
        latent: dict,
        seed: int,
        noise: str = "independent",
        steps: int = 25,
        model=None,
        frames_per_batch: int = 0,
    ) -> dict:
        """Frames drawn one by one by the image model, or by another MODEL: a LATENT."""
        return self.pack.run(
            "BIVDiffFrameSampler",
            model=model or self.image,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=seed,
            steps=steps,
            cfg=FRAME_CFG,
            sampler_name="ddim",
            scheduler=SCHEDULER,
            denoise=1.0,
            frame_noise=noise,
            frames_per_batch=frames_per_batch,
        )[0]

    def invert_image(
        self,
        latent: dict,
        conditioning: list,
        strength: float,
        solver: str = "ddim",
        steps: int = 25,
        frames_per_batch: int = 0,
    ) -> dict:
        """The LATENT inverted by the image model."""
        return self.pack.run(
            "BIVDiffInvertImage",
            model=self.image,
            conditioning=conditioning,
            latent=latent,
            steps=steps,
            scheduler=SCHEDULER,
            solver=solver,
            strength=strength,
            grid="matched",
            frames_per_batch=frames_per_batch,
        )[0]

    def invert_video(
        self,
        latent: dict,
        conditioning: list,
        strength: float,
        solver: str = "ddim",
        steps: int = 25,
        model=None,
        windows: tuple[int, int] = (0, 0),
    ) -> dict:
        """The LATENT inverted by the video model, or by another MODEL, in windows of a length and overlap."""
        return self.pack.run(
            "BIVDiffInvertVideo",
            model=model or self.video,
            conditioning=conditioning,
            latent=latent,
            steps=steps,
            scheduler=SCHEDULER,
            solver=solver,
            strength=strength,
            grid="matched",
            context_length=windows[0],
            context_overlap=windows[1],
        )[0]

    def blend(self, image: dict | None, video: dict | None, ratio: float, mode: str = "linear") -> dict:
        """The mixed inversion of the two."""
        return self.pack.run(
            "BIVDiffMixedInversion",
            image_latent=image,
            video_latent=video,
            task="custom",
            mixing_ratio=ratio,
            mode=mode,
        )[0]

    def smooth(
        self,
        latent: dict,
        positive: list,
        steps: int = 25,
        cfg: float = SMOOTH_CFG,
        model=None,
        windows: tuple[int, int] = (0, 0),
    ) -> dict:
        """An inverted LATENT denoised from where it stopped by the video model, or by another MODEL."""
        return self.pack.run(
            "BIVDiffTemporalSmoother",
            model=model or self.video,
            positive=positive,
            negative=self.empty,
            latent=latent,
            steps=steps,
            cfg=cfg,
            sampler_name="ddim",
            scheduler=SCHEDULER,
            strength=1.0,
            grid="matched",
            context_length=windows[0],
            context_overlap=windows[1],
        )[0]

    def sample(self, model, positive: list, latent: dict, seed: int, denoise: float = 1.0, steps: int = 25) -> dict:
        """What core's KSampler makes of a LATENT."""
        return self.pack.run(
            "KSampler",
            model=model,
            seed=seed,
            steps=steps,
            cfg=FRAME_CFG,
            sampler_name="ddim",
            scheduler=SCHEDULER,
            positive=positive,
            negative=self.empty,
            latent_image=latent,
            denoise=denoise,
        )[0]

    def figures(self, frames: Tensor, clip) -> dict[str, float | None]:
        """Pixel rules on frames `[F, H, W, 3]`, against what is known of the clip."""
        flicker = self.measure.flicker(frames, clip)
        return {
            "shape flicker": flicker.shape,
            "background flicker": flicker.ground,
            "IoU": self.measure.structure_iou(frames, clip),
            "caption": self.measure.caption_accuracy(frames, clip),
            "sharpness": self.measure.sharpness(frames),
        }


def average_of_three(frames: Tensor) -> Tensor:
    """Each frame `[F, H, W, 3]` averaged with its neighbours; the end frames count themselves twice."""
    padded = torch.cat((frames[:1], frames, frames[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def with_jumping_colours(frames: Tensor, seed: int) -> Tensor:
    """Frames `[F, H, W, 3]`, each a little lighter or darker in every colour: footage that flickers."""
    jumps = torch.randn(len(frames), 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    return (frames * (1 + 0.12 * jumps)).clamp(0, 1)
