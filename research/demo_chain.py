"""BIVDiff on the demo models for benchmarks and pictures: the real nodes, one by one in a ComfyUI of this process."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from research import toy_world
from tools.in_process_comfyui import Pack, use_comfyui

FRAME_CFG, SMOOTH_CFG = 3.0, 1.0
STRUCTURE_PASS_STRENGTH = 0.3
SCHEDULER = "ddim_uniform"


def start() -> Pack:
    """The pack inside ComfyUI, on a GPU if there is one, without the host's log and progress bars."""
    use_comfyui(cpu=not torch.accelerator.is_available())
    pack = Pack()
    logging.disable(logging.INFO)
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return pack


def device_name() -> str:
    """What the figures were measured on, in words."""
    return "a GPU" if torch.accelerator.is_available() else "a CPU"


class DemoChain:
    """The nodes of the chain on the demo models; settings that a benchmark does not name are the demo workflow's."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.image, self.video, self.clip, self.vae, self.control_net = pack.run("BIVDiffDemoModels", variant="base")
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
            image=toy_world.canny_hints(frames),
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
        cfg: float = FRAME_CFG,
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
            cfg=cfg,
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
        grid: str = "matched",
    ) -> dict:
        """The LATENT inverted by the image model."""
        return self.pack.run(
            "BIVDiffInvertImage",
            model=self.image,
            conditioning=conditioning,
            latent=latent,
            steps=steps,
            solver=solver,
            strength=strength,
            grid=grid,
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
            solver=solver,
            strength=strength,
            context_length=windows[0],
            context_overlap=windows[1],
        )[0]

    def blend(
        self, image: dict | None, video: dict | None, ratio: float, mode: str = "linear", steadiness: float = 0.0
    ) -> dict:
        """The mixed inversion of the two."""
        return self.pack.run(
            "BIVDiffMixedInversion",
            image_latent=image,
            video_latent=video,
            mixing_ratio=ratio,
            mode=mode,
            steadiness=steadiness,
        )[0]

    def smooth(
        self,
        latent: dict,
        positive: list,
        steps: int = 25,
        cfg: float = SMOOTH_CFG,
        model=None,
        windows: tuple[int, int] = (0, 0),
        grid: str = "matched",
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
            grid=grid,
            context_length=windows[0],
            context_overlap=windows[1],
        )[0]

    def redraw(self, latent: dict, positive: list, negative: list, steps: int = 25, cfg: float = SMOOTH_CFG) -> dict:
        """An inverted LATENT denoised from where it stopped by the image model, frame by frame."""
        return self.draw(positive, negative, latent, seed=0, steps=steps, cfg=cfg)

    def structure_pass(self, latent: dict, positive: list, controlled: tuple[list, list], steps: int = 25) -> dict:
        """A smoothed LATENT inverted a little way, and drawn again under the frames' control."""
        return self.redraw(
            self.invert_image(latent, positive, STRUCTURE_PASS_STRENGTH, steps=steps), *controlled, steps
        )

    def nothing(self, frames: int) -> dict:
        """An empty LATENT of so many frames."""
        return {"samples": torch.zeros(frames, 4, 8, 8)}

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

    def sample_custom(self, guider, noise, latent: dict, steps: int = 25, sampler: str = "ddim", model=None) -> dict:
        """What core's SamplerCustomAdvanced makes of a LATENT, on the image model's levels or another MODEL's."""
        return self.pack.run(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=self.pack.run("KSamplerSelect", sampler_name=sampler)[0],
            sigmas=self.pack.run("BasicScheduler", model=model or self.image, scheduler=SCHEDULER, steps=steps)[0],
            latent_image=latent,
        )[0]

    def frame_noise(self, seed: int, mode: str):
        """The NOISE of Frame Noise."""
        return self.pack.run("BIVDiffFrameNoise", seed=seed, mode=mode)[0]

    def bridge(self, image_prompts: tuple[list, list], positive: list, video_cfg: float, strategy: str, share: float):
        """A GUIDER of both models; the image model's prompts carry its control."""
        return self.pack.run(
            "BIVDiffBridgeGuider",
            image_model=self.image,
            image_positive=image_prompts[0],
            image_negative=image_prompts[1],
            image_cfg=FRAME_CFG,
            video_model=self.video,
            video_positive=positive,
            video_negative=self.empty,
            video_cfg=video_cfg,
            strategy=strategy,
            image_share=share,
        )[0]

    def edit_words(self, frames: Tensor, source: str, target: str, blend_words: str = "") -> tuple[dict, dict]:
        """Frames `[F, H, W, 3]` edited by Prompt2Prompt, and brought back without the edit: two LATENTs."""
        inverted = self.invert_image(self.encode(frames), self.encode_text(source), 1.0, solver="uni_inv")
        return self.pack.run(
            "BIVDiffPrompt2Prompt",
            model=self.image,
            clip=self.clip,
            latent=inverted,
            source_prompt=source,
            target_prompt=target,
            negative_prompt="",
            steps=25,
            cfg=FRAME_CFG,
            local_blend_words=blend_words,
        )


def average_three_frames(frames: Tensor) -> Tensor:
    """Each frame `[F, H, W, 3]` averaged with its neighbours; the end frames count themselves twice."""
    padded = torch.cat((frames[:1], frames, frames[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def add_colour_flicker(frames: Tensor, seed: int) -> Tensor:
    """Frames `[F, H, W, 3]`, each a little lighter or darker in every colour: footage that flickers."""
    jumps = torch.randn(len(frames), 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    return (frames * (1 + 0.12 * jumps)).clamp(0, 1)
