"""BIVDiff on the demo models for measurements and pictures: runs the real nodes, in a ComfyUI in this process."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from research import toy_world
from tools.in_process_comfyui import Pack, use_comfyui

FRAME_CFG, SMOOTH_CFG, PASS_CFG = 3.0, 2.0, 1.0
STRUCTURE_PASS_STRENGTH = 0.3
SCHEDULER = "ddim_uniform"


def steps_below(strength: float, steps: int) -> int:
    """Number of steps that `SCHEDULER` takes up to a strength, if its whole schedule has `steps` steps.

    The rows of the studies name the steps of the whole schedule; the nodes take the steps that a run has.
    """
    if strength == 1:
        return steps
    return len(range(1, math.ceil(1000 * strength), 1000 // steps)) + 1


def steps_of(latent: dict, steps: int) -> int:
    """Number of steps to denoise an inverted LATENT, if the whole schedule has `steps` steps.

    Without a record of its inversion, the LATENT is at full noise.
    """
    return steps_below(latent.get("bivdiff", {"strength": 1})["strength"], steps)


def load_pack() -> Pack:
    """Load ComfyUI with the pack, on a GPU if there is one, without ComfyUI's log and progress bars."""
    use_comfyui(cpu=not torch.accelerator.is_available())
    pack = Pack()
    logging.disable(logging.INFO)
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    return pack


class DemoChain:
    """The nodes of the chain on the demo models; the default settings are those of the demo workflow."""

    def __init__(self) -> None:
        self.pack = load_pack()
        self.image, self.video, self.clip, self.vae, self.control_net = self.pack.run(
            "BIVDiffDemoModels", variant="base"
        )
        self.empty = self.encode_text("")

    def encode_text(self, text: str) -> list:
        """Encode a caption to CONDITIONING."""
        return self.pack.run("CLIPTextEncode", clip=self.clip, text=text)[0]

    def encode(self, frames: Tensor) -> dict:
        """Encode frames `[F, H, W, 3]` to a LATENT."""
        return self.pack.run("VAEEncode", vae=self.vae, pixels=frames)[0]

    def decode(self, latent: dict) -> Tensor:
        """Decode a LATENT to frames `[F, H, W, 3]`."""
        return self.pack.run("VAEDecode", vae=self.vae, samples=latent)[0]

    def apply_outline_control(self, frames: Tensor, positive: list) -> tuple[list, list]:
        """Apply the ControlNet, with Canny edges of frames `[F, H, W, 3]`, to a prompt and to the empty prompt."""
        return self.pack.run(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=self.empty,
            control_net=self.control_net,
            image=toy_world.canny_hints(frames),
        )

    def generate_frames(
        self,
        positive: list,
        negative: list,
        latent: dict,
        seed: int,
        noise: str = "independent",
        steps: int = 25,
        **inputs,
    ) -> dict:
        """Generate frames independently with the image model; ``inputs`` are further inputs of the node."""
        return self.pack.run(
            "BIVDiffFrameSampler",
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=seed,
            steps=steps,
            frame_noise=noise,
            **{"model": self.image, "cfg": FRAME_CFG, "scheduler": SCHEDULER} | inputs,
        )[0]

    def invert_image(
        self, latent: dict, conditioning: list, strength: float, solver: str = "ddim", steps: int = 25, **inputs
    ) -> dict:
        """Invert a LATENT with the image model."""
        return self.pack.run(
            "BIVDiffInvertImage",
            model=self.image,
            conditioning=conditioning,
            latent=latent,
            steps=steps_below(strength, steps),
            scheduler=SCHEDULER,
            solver=solver,
            strength=strength,
            **inputs,
        )[0]

    def invert_video(
        self, latent: dict, conditioning: list, strength: float, solver: str = "ddim", steps: int = 25, **inputs
    ) -> dict:
        """Invert a LATENT with the video model, or another ``model``."""
        return self.pack.run(
            "BIVDiffInvertVideo",
            conditioning=conditioning,
            latent=latent,
            steps=steps_below(strength, steps),
            scheduler=SCHEDULER,
            solver=solver,
            strength=strength,
            **{"model": self.video} | inputs,
        )[0]

    def blend(
        self, image: dict | None, video: dict | None, ratio: float, mode: str = "linear", steadiness: float = 0.0
    ) -> dict:
        """Blend two inverted LATENTs with Mixed Inversion Blend."""
        return self.pack.run(
            "BIVDiffMixedInversion",
            image_latent=image,
            video_latent=video,
            mixing_ratio=ratio,
            mode=mode,
            steadiness=steadiness,
        )[0]

    def smooth(self, latent: dict, positive: list, steps: int = 25, cfg: float = SMOOTH_CFG, **inputs) -> dict:
        """Denoise an inverted LATENT from its noise level with the video model, or another ``model``."""
        return self.pack.run(
            "BIVDiffTemporalSmoother",
            positive=positive,
            negative=self.empty,
            latent=latent,
            steps=steps_of(latent, steps),
            cfg=cfg,
            **{"model": self.video, "scheduler": SCHEDULER} | inputs,
        )[0]

    def denoise_by_frame(
        self, latent: dict, positive: list, negative: list, steps: int = 25, cfg: float = PASS_CFG
    ) -> dict:
        """Denoise an inverted LATENT from its noise level with the image model, frame by frame."""
        return self.generate_frames(positive, negative, latent, seed=0, steps=steps_of(latent, steps), cfg=cfg)

    def structure_pass(self, latent: dict, positive: list, controlled: tuple[list, list], steps: int = 25) -> dict:
        """Invert a smoothed LATENT a little, and denoise it with the image model under the frames' control."""
        return self.denoise_by_frame(
            self.invert_image(latent, positive, STRUCTURE_PASS_STRENGTH, steps=steps), *controlled, steps
        )

    def empty_latent(self, frames: int) -> dict:
        """An empty LATENT with this number of frames."""
        return {"samples": torch.zeros(frames, 4, 8, 8)}

    def run_ksampler(
        self, model, positive: list, latent: dict, seed: int, denoise: float = 1.0, steps: int = 25, cfg=FRAME_CFG
    ) -> dict:
        """Sample a LATENT with core's KSampler."""
        return self.pack.run(
            "KSampler",
            model=model,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name="ddim",
            scheduler=SCHEDULER,
            positive=positive,
            negative=self.empty,
            latent_image=latent,
            denoise=denoise,
        )[0]

    def run_custom_sampler(
        self, guider, noise, latent: dict, steps: int = 25, sampler: str = "ddim", model=None
    ) -> dict:
        """Sample a LATENT with core's SamplerCustomAdvanced; noise levels of the image model or ``model``."""
        return self.pack.run(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=self.pack.run("KSamplerSelect", sampler_name=sampler)[0],
            sigmas=self.pack.run("BasicScheduler", model=model or self.image, scheduler=SCHEDULER, steps=steps)[0],
            latent_image=latent,
        )[0]

    def frame_noise(self, seed: int, mode: str):
        """NOISE of the node Frame Noise."""
        return self.pack.run("BIVDiffFrameNoise", seed=seed, mode=mode)[0]

    def make_bridge_guider(
        self, image_prompts: tuple[list, list], positive: list, video_cfg: float, strategy: str, share: float
    ):
        """A GUIDER with both models; ``image_prompts`` are the image model's prompts, with control."""
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

    def borrow_control(self, controlled: list, plain: list, weight: float, start: float = 0.0):
        """The video MODEL with the control of a prompt; ``plain`` is the same prompt without it."""
        return self.pack.run(
            "BIVDiffBorrowControl",
            model=self.video,
            image_model=self.image,
            with_control=controlled,
            without_control=plain,
            weight=weight,
            start_percent=start,
            end_percent=1.0,
            frames_per_batch=0,
        )[0]

    def edit_prompt(self, frames: Tensor, source: str, target: str, blend_words: str = "") -> tuple[dict, dict]:
        """Edit frames `[F, H, W, 3]` with Prompt2Prompt: the edited and the reconstructed LATENT."""
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
            scheduler=SCHEDULER,
            local_blend_words=blend_words,
        )


def with_adjacent_frames(frames: Tensor) -> Tensor:
    """Each frame `[F, H, W, 3]` with the frames before and after it, `[3, F, H, W, 3]`; an end frame stands twice."""
    padded = torch.cat((frames[:1], frames, frames[-1:]))
    return torch.stack((padded[:-2], padded[1:-1], padded[2:]))


def average_three_frames(frames: Tensor) -> Tensor:
    """Average each frame `[F, H, W, 3]` with the adjacent frames; an end frame counts twice."""
    return with_adjacent_frames(frames).mean(dim=0)


def add_colour_flicker(frames: Tensor, seed: int) -> Tensor:
    """Make frames `[F, H, W, 3]` flicker: scale each colour of each frame by a random factor near 1."""
    jumps = torch.randn(len(frames), 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    return (frames * (1 + 0.12 * jumps)).clamp(0, 1)
