"""Ways to smooth flickering frames with models of today, on the modern pair: runs the real nodes, with their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from bivdiff_core.blend import smooth_over_time
from bivdiff_core.measure.optical_flow import average_along_flow
from research import modern_clips, modern_pair, toy_world
from research.demo_chain import load_pack
from research.frame_counter import FrameCounter, PricedResult, once
from research.toy_metrics import background_following, measure_figures, measure_flicker_of_pairs

EDIT_STEPS, EDIT_CFG, EDIT_SHIFT = 16, 2.5, 3.0
"""Settings of the image model when it makes frames."""
STEPS, STRENGTH, SHIFT = 8, 0.7, 8.0
STUDY_FRAMES = modern_clips.LONG_FRAMES


@dataclass(frozen=True)
class Method:
    """A way to make a video; what its frames are and what is done to them.

    frames: one of `modern_clips.FLICKERS`, or "Qwen, independent" or "Qwen, shared", the noise of edited frames.
    way: what is done: see `FlowChain.make_video`.
    strength: of an inversion or of noise. up, down: steps of inversion and of denoising, by solver and by sampler.
    branch: which latents are inverted, and how: "video": the clip by the video model; "Wan slices", "Qwen slices": each
        latent of the clip by itself; "single frames": every fourth frame, encoded by itself, by the video model.
    ratio: the share of that branch; the rest is the video branch.
    steadiness: of ``steadied``, "branch" or "mix", in one of the `FORMS`; or of clean latents.
    model: the video model that denoises: "wan", "distilled" or "low" (the low-noise expert) or "experts".
    """

    frames: str = modern_clips.FLICKERS[0]
    way: str = "BIVDiff"
    strength: float = STRENGTH
    up: int = STEPS
    down: int = STEPS
    solver: str = "fireflow"
    sampler: str = "euler"
    shift: float = SHIFT
    cfg: float = 1.0
    branch: str = "video"
    ratio: float = 1.0
    steadiness: float = 0.0
    form: str = "plain"
    steadied: str = "branch"
    model: str = "wan"

    def __str__(self) -> str:
        default, name = Method(frames=self.frames, way=self.way), self.way
        for field, text in {
            "branch": self.branch,
            "ratio": f"ratio {self.ratio:g}",
            "strength": f"strength {self.strength:g}",
            "steadiness": f"steadiness {self.steadiness:g}",
            "form": self.form,
            "steadied": f"of the {self.steadied}",
            "up": f"{self.up} up",
            "down": f"{self.down} down",
            "solver": self.solver,
            "sampler": self.sampler,
            "shift": f"shift {self.shift:g}",
            "cfg": f"cfg {self.cfg:g}",
            "model": self.model,
        }.items():
            if getattr(self, field) != getattr(default, field):
                name += f", {text}"
        return name


DEFAULT = Method(steadiness=0.5)
"""The pack's default for flow models."""


def one_frame_for_each_latent(clip: Tensor) -> Tensor:
    """A frame of a clip `[F, H, W, 3]` from the middle of each latent."""
    return clip[[0, *range(modern_clips.PACKED_FRAMES - 1, len(clip), modern_clips.PACKED_FRAMES)]]


def smooth_plainly(latents: Tensor, clip: Tensor, steadiness: float) -> Tensor:
    """Latents `[C, T, h, w]`, smoothed over time in place."""
    return smooth_over_time(latents, steadiness, frame_dim=1)


def smooth_along_motion(latents: Tensor, clip: Tensor, steadiness: float) -> Tensor:
    """Latents `[C, T, h, w]`, averaged with the adjacent latents along the motion of a clip `[F, H, W, 3]`."""
    frames = latents.permute(1, 2, 3, 0)
    mean = average_along_flow(frames, one_frame_for_each_latent(clip), reach=2)[0].permute(3, 0, 1, 2)
    return keep_std(torch.lerp(latents, mean, steadiness), latents)


def keep_std(changed: Tensor, latents: Tensor) -> Tensor:
    """Changed latents `[C, T, h, w]` with the std of each time slice as it was."""
    return changed * (latents.std(dim=(0, 2, 3), keepdim=True) / changed.std(dim=(0, 2, 3), keepdim=True))


def smooth_band(high: bool) -> Callable:
    """Smoothing over time of the high or low spatial band only, split by a 3x3 mean."""

    def smooth(latents: Tensor, clip: Tensor, steadiness: float) -> Tensor:
        frames = latents.transpose(0, 1)
        change = smooth_over_time(frames, steadiness) - frames
        low = torch.nn.functional.avg_pool2d(change, 3, stride=1, padding=1, count_include_pad=False)
        return keep_std((frames + (change - low if high else low)).transpose(0, 1), latents)

    return smooth


def smooth_what_is_still(latents: Tensor, clip: Tensor, steadiness: float) -> Tensor:
    """Latents `[C, T, h, w]`, smoothed over time where a clip `[F, H, W, 3]` hardly changes from latent to latent."""
    change = one_frame_for_each_latent(clip).diff(dim=0).abs().mean(dim=-1)
    change = torch.cat((change[:1], torch.maximum(change[1:], change[:-1]), change[-1:]))
    change = torch.nn.functional.adaptive_avg_pool2d(change[:, None], latents.shape[-2:])[:, 0]
    still = torch.exp(-((change / 0.1) ** 2))
    return keep_std(torch.lerp(latents, smooth_plainly(latents, clip, steadiness), still), latents)


FORMS = {
    "plain": smooth_plainly,
    "along motion": smooth_along_motion,
    "high band": smooth_band(high=True),
    "low band": smooth_band(high=False),
    "still parts": smooth_what_is_still,
}
"""Ways to smooth latents over time."""


class FlowChain(FrameCounter):
    """Every method on one clip and seed; what several methods share is run once."""

    def __init__(self) -> None:
        super().__init__()
        self.pack = load_pack()
        self.clip = self.pack.run("BIVDiffDemoModels", variant="base")[2]
        self.vae = modern_pair.load_vae()
        self.record = self.pack.import_module("bivdiff_core.host.inverted_latents")
        self.loaded = cache(self.load_model)
        self.empty = self.text("")

    def load_model(self, name: str):
        """A MODEL of the pair: see `modern_pair.load_model`, or "distilled"."""
        if name == "distilled":
            import comfy.sd

            lora = modern_pair.load_weights("distilled_lora")
            return comfy.sd.load_lora_for_models(self.loaded("wan"), None, lora, 1.0, 0.0)[0]
        model = modern_pair.load_model(name)
        self.count(model)
        return model

    def shifted(self, name: str, shift: float):
        """A MODEL of the pair with the shift of its noise levels."""
        node_id = "ModelSamplingAuraFlow" if name == "qwen" else "ModelSamplingSD3"
        return self.pack.run(node_id, model=self.loaded(name), shift=shift)[0]

    def start(self, clip: toy_world.ToyClip, seed: int) -> None:
        """Continue with another clip, which is edited."""
        self.source, self.goal, self.seed, self.done = clip, toy_world.redress(clip, clip.seed), seed, {}

    def text(self, caption: str) -> list:
        """CONDITIONING of a caption."""
        return self.pack.run("CLIPTextEncode", clip=self.clip, text=caption)[0]

    def encode(self, frames: Tensor, mode: str = "clip", stride: int = 1) -> dict:
        """Encode frames `[F, H, W, 3]` with Encode Frames."""
        return self.pack.run("BIVDiffEncodeFrames", vae=self.vae, images=frames, mode=mode, stride=stride)[0]

    def decode(self, latent: dict) -> Tensor:
        """Decode a LATENT to frames `[F, H, W, 3]`."""
        return self.pack.run("VAEDecode", vae=self.vae, samples=latent)[0]

    @once
    def make_frames(self, frames: str) -> Tensor:
        """The flickering frames to smooth, `[F, H, W, 3]`."""
        if frames in modern_clips.FLICKERS:
            return modern_clips.draw_with_flicker(self.goal, frames, self.seed)
        return self.edit_frames(frames.removeprefix("Qwen, "))

    def edit_frames(self, noise: str) -> Tensor:
        """Edit each frame of the source with the image model."""
        sources = self.encode(self.source.frames, "single_frames")
        positive, negative = (
            self.pack.run("ReferenceLatent", conditioning=text, latent=sources)[0]
            for text in (self.text(self.goal.caption), self.empty)
        )
        edited = self.pack.run(
            "BIVDiffFrameSampler",
            model=self.shifted("qwen", EDIT_SHIFT),
            positive=positive,
            negative=negative,
            latent_image={"samples": torch.zeros_like(sources["samples"])},
            seed=self.seed,
            steps=EDIT_STEPS,
            cfg=EDIT_CFG,
            sampler_name="euler",
            scheduler="simple",
            frame_noise=noise,
        )[0]
        return self.decode(edited)

    @once
    def encoded(self, frames: str, single: bool = False) -> dict:
        """The frames as a clip, or every fourth as a single frame: a LATENT."""
        mode = ("single_frames", modern_clips.PACKED_FRAMES) if single else ("clip", 1)
        return self.encode(self.make_frames(frames), *mode)

    @once
    def inverted(
        self, branch: str, frames: str, strength: float, steps: int, solver: str, shift: float, model: str
    ) -> PricedResult:
        """The inverted frames of a branch: a LATENT."""
        return self.run_step(
            self.run_node,
            "BIVDiffInvertVideo" if branch == "video" else "BIVDiffInvertImage",
            **self.experts("qwen" if branch == "Qwen slices" else model, shift),
            conditioning=self.empty,
            latent=self.encoded(frames, branch == "single frames"),
            steps=steps,
            solver=solver,
            strength=strength,
            scheduler="simple",
        )

    def run_node(self, node_id: str, **inputs) -> dict:
        """The first output of a node."""
        return self.pack.run(node_id, **inputs)[0]

    def experts(self, model: str, shift: float) -> dict:
        """The MODEL inputs of a node for one of `Method.model`, or for "qwen"."""
        if model == "experts":
            return {
                "model": self.shifted("wan_high_noise", shift),
                "low_noise_model": self.shifted("wan_low_noise", shift),
                "boundary": 0.875,
            }
        return {"model": self.shifted("wan_low_noise" if model == "low" else model, shift)}

    def invert_for(self, method: Method, branch: str) -> PricedResult:
        """The inverted frames of a branch of a method."""
        model = "wan" if method.model == "distilled" else method.model
        return self.inverted(branch, method.frames, method.strength, method.up, method.solver, method.shift, model)

    def change_samples(self, latent: dict, change: Callable[[Tensor], Tensor]) -> dict:
        """An inverted LATENT with changed samples `[B, C, T, h, w]`, and its record."""
        inverted = self.record.InvertedLatent.from_latent(latent)
        return replace(inverted, samples=change(inverted.samples)).to_latent()

    def steadied(self, latent: dict, method: Method) -> dict:
        """A video LATENT, inverted, smoothed over time."""
        smooth = FORMS[method.form]
        return self.change_samples(
            latent, lambda samples: smooth(samples[0], self.source.frames, method.steadiness)[None]
        )

    def mixed(self, method: Method) -> PricedResult:
        """The LATENT that the video model denoises."""
        branch = self.invert_for(method, method.branch)
        if method.branch == "single frames":
            branch = self.run_step(self.to_video_latent, branch)
        if method.steadiness and method.steadied == "branch":
            branch = self.run_step(self.steadied, branch, method)
        if method.ratio < 1:
            inputs = branch, self.invert_for(method, "video")
            branch = self.run_step(self.blend, *inputs, method.ratio)
        if method.steadiness and method.steadied == "mix":
            branch = self.run_step(self.steadied, branch, method)
        return branch

    def to_video_latent(self, latent: dict) -> dict:
        """Single inverted frames `[T, C, 1, h, w]` as a clip."""
        return self.change_samples(latent, lambda samples: samples.permute(2, 1, 0, 3, 4))

    def blend(self, image: dict, video: dict, ratio: float) -> dict:
        """Mixed Inversion Blend."""
        return self.run_node("BIVDiffMixedInversion", image_latent=image, video_latent=video, mixing_ratio=ratio)

    def denoise(self, latent: dict, method: Method) -> dict:
        """Denoise an inverted LATENT with Video Temporal Smoother."""
        return self.run_node(
            "BIVDiffTemporalSmoother",
            **self.experts(method.model, method.shift),
            positive=self.text(self.goal.caption),
            negative=self.empty,
            latent=latent,
            steps=method.down,
            cfg=method.cfg,
            sampler_name=method.sampler,
            scheduler="simple",
        )

    def noised(self, method: Method) -> PricedResult:
        """The clip with random noise instead of an inversion, at the same level: a LATENT; the inversion is free."""
        record = self.invert_for(replace(method, up=2), "video").result
        noise = torch.randn(record["samples"].shape, generator=torch.Generator().manual_seed(self.seed))
        clean = self.clean(method.frames)
        made = self.change_samples(record, lambda samples: torch.lerp(clean, noise, method.strength))
        return PricedResult(made, {})

    def clean(self, frames: str) -> Tensor:
        """Encoded frames in the scale of the models."""
        return self.loaded("wan").model.process_latent_in(self.encoded(frames)["samples"])

    def to_latent(self, samples: Tensor) -> dict:
        """A LATENT of samples in the scale of the models."""
        return {"samples": self.loaded("wan").model.process_latent_out(samples)}

    @torch.inference_mode()
    def flow_edit(self, method: Method) -> dict:
        """FlowEdit (arXiv 2412.08629), from the video model's velocity of each latent alone to that of the clip."""
        network, text, empty = self.loaded("wan").model, self.text(self.goal.caption)[0][0], self.empty[0][0]
        shares = torch.linspace(1, 0, method.down + 1) * method.strength
        clean, generator = self.clean(method.frames), torch.Generator().manual_seed(self.seed)
        edited = clean.clone()

        def velocity(x: Tensor, level: Tensor, text: Tensor) -> Tensor:
            return (x - network.apply_model(x, level.expand(len(x)), c_crossattn=text)) / level

        for level, following in pairwise(shares):
            noise = torch.randn(clean.shape, generator=generator)
            source = torch.lerp(clean, noise, level)
            slices = source[0].transpose(0, 1).unsqueeze(2)
            alone = velocity(slices, level, empty.expand(len(slices), -1, -1)).squeeze(2).transpose(0, 1)[None]
            together = velocity(edited + source - clean, level, text)
            edited = edited + (following - level) * (together - alone)
        return self.to_latent(edited)

    def make_video(self, method: Method) -> PricedResult:
        """The video of a method, `[F, H, W, 3]`."""
        if method.way == "as drawn":
            return PricedResult(self.make_frames(method.frames), {})
        if method.way == "along motion":
            averaged = average_along_flow(self.make_frames(method.frames), self.source.frames, 3)[0]
            return PricedResult(averaged, {})
        if method.way == "from noise":
            return self.run_step(self.decode, self.run_step(self.from_noise, method))
        if method.way == "FlowEdit":
            return self.run_step(self.decode, self.run_step(self.flow_edit, method))
        if method.way in ("decoded", "clean"):
            clean = self.clean(method.frames)[0]
            steadied = FORMS[method.form](clean, self.source.frames, method.steadiness) if method.steadiness else clean
            return PricedResult(self.decode(self.to_latent(steadied[None])), {})
        latent = self.noised(method) if method.way == "noised" else self.mixed(method)
        return self.run_step(self.decode, self.run_step(self.denoise, latent, method))

    def from_noise(self, method: Method) -> dict:
        """A video from noise alone: a LATENT."""
        return self.run_node(
            "KSampler",
            model=self.shifted(method.model, method.shift),
            seed=self.seed,
            steps=method.down,
            cfg=method.cfg,
            sampler_name=method.sampler,
            scheduler="simple",
            positive=self.text(self.goal.caption),
            negative=self.empty,
            latent_image={"samples": torch.zeros_like(self.encoded(method.frames)["samples"])},
        )


def measure_video(frames: Tensor, clip: toy_world.ToyClip) -> dict[str, float | None]:
    """The figures of a video; flicker between two latents and inside one is of shapes and background together."""
    pairs = np.array([(pair.shape + pair.ground) / 2 for pair in measure_flicker_of_pairs(frames, clip)])
    border = np.arange(len(pairs)) % modern_clips.PACKED_FRAMES == 0
    return measure_figures(frames, clip) | {
        "border": float(np.nanmean(pairs[border])),
        "inside": float(np.nanmean(pairs[~border])),
        "following": background_following(frames, clip),
    }


def measure_methods(chain: FlowChain, job: dict, methods: Iterable[Method]) -> dict:
    """A row: the figures of methods on a job's clip; sharpness relative to the edited clip through the VAE."""
    chain.start(modern_clips.held_out_clip(job["kind"], job["clip"], STUDY_FRAMES), job["seed"])
    goal = measure_video(chain.decode(chain.encode(chain.goal.frames)), chain.goal)
    found, latents = {"goal": {"decoded": goal | {"calls": 0}}}, modern_clips.latent_number(STUDY_FRAMES - 1) + 1
    for method in methods:
        video = chain.make_video(method)
        figures = measure_video(video.result, chain.goal) | {"calls": video.calls / latents}
        found.setdefault(method.frames, {})[str(method)] = figures
    reference = goal["sharpness"]
    for ways in found.values():
        for figures in ways.values():
            figures["sharpness"] /= reference
    return {"drift": abs(chain.goal.drift[0]), "ways": found}
