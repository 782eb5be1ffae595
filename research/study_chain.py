"""Runs the cases of the study, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from bivdiff_core.demo import models
from bivdiff_core.grids import SD_BETAS
from research import demo_networks, toy_metrics, toy_world
from research.demo_chain import FRAME_CFG, add_colour_flicker, average_three_frames
from research.frame_counter import CountingChain, PricedResult
from research.study_cases import BRIDGES, DEFAULT_CASE, MOTIONS, WITH_STRUCTURE_PASS, StudyCase
from research.train_demo_models import diffusion_loss

FIRST_CLIP = 5000  # not those of claims.py
TUNING_STEPS, TUNING_BATCH = 200, 2
MASK_MARGIN = 2


@dataclass(frozen=True)
class StudyScene:
    """A clip and its edit. source: the clip; goal: the edited clip with full caption; instruction: the edit's text."""

    source: toy_world.ToyClip
    goal: toy_world.ToyClip
    instruction: str


def omits_colour(clip: toy_world.ToyClip) -> bool:
    """Whether the clip's caption omits a colour."""
    return clip.full_caption != clip.caption


def generate_clips() -> Iterator[toy_world.ToyClip]:
    """One easy clip of each motion per round; in every second round the captions omit a colour."""
    seeds = iter(toy_world.HELD_OUT_SEEDS[FIRST_CLIP:])
    for number in count():
        for motion, change in MOTIONS.items():
            wanted = (motion == "crossing", number % 2 == 1)
            clips = map(toy_world.generate_clip, seeds)
            clip = next(clip for clip in clips if (len(clip.shapes) == 2, omits_colour(clip)) == wanted)
            yield toy_world.change_motion(clip, **change)


def make_scene(clip: toy_world.ToyClip) -> StudyScene:
    """A scene: the clip, and an edit that changes a shape's colour."""
    edits = (toy_world.recolour(clip, seed) for seed in range(100))
    edit = next(edit for edit in edits if edit.background == clip.background)
    return StudyScene(clip, replace(edit, caption=edit.full_caption), edit.caption)


class StudyChain(CountingChain):
    """Runs every case, scene by scene; results that several cases share are computed once per scene."""

    def __init__(self) -> None:
        super().__init__()
        self.editor, self.editor_clip = self.pack.run("BIVDiffDemoModels", variant="instruct_pix2pix")[0:3:2]
        self.inpainter = self.pack.run("BIVDiffDemoModels", variant="inpaint")[0]
        self.videos = {"demo": self.video, "other schedule": with_linear_betas(self.video)}
        for model in (self.editor, self.inpainter):
            self.count(model)

    def start_scene(self, clip: toy_world.ToyClip, seed: int) -> None:
        """Start the scene of a clip."""
        self.scene, self.seed, self.stages = make_scene(clip), seed, {}
        self.mask = toy_metrics.dilate((clip.masks[0] > 0.01).float(), MASK_MARGIN)

    def stage(self, name: tuple, function: Callable, *inputs, **settings) -> PricedResult:
        """`run_step`, computed once per scene and name."""
        if name not in self.stages:
            self.stages[name] = self.run_step(function, *inputs, **settings)
        return self.stages[name]

    def encode_goal(self, task: str) -> tuple[list, toy_world.ToyClip]:
        """A task's prompt as CONDITIONING, and the clip that its video should match."""
        goal = self.scene.source if task in ("controlnet", "own_frames") else self.scene.goal
        return self.encode_text(goal.caption), goal

    def make_frames(self, task: str, noise: str) -> dict:
        """The frames of the task's image model: a LATENT, for inpainting with its mask."""
        source, (positive, _) = self.scene.source, self.encode_goal(task)
        if task == "controlnet":
            controlled = self.apply_outline_control(source.frames, positive)
            return self.generate_frames(*controlled, self.empty_latent(toy_world.FRAMES), self.seed, noise)
        if task == "instruct_pix2pix":
            return self.edit_by_instruction(noise)
        if task == "prompt2prompt":
            return self.edit_prompt(source.frames, source.full_caption, self.scene.goal.caption)[0]
        if task == "own_frames":
            return self.encode(add_colour_flicker(source.frames, self.seed))
        positive, negative, latent = self.pack.run(
            "InpaintModelConditioning",
            positive=positive,
            negative=self.empty,
            vae=self.vae,
            pixels=source.frames,
            mask=self.mask,
            noise_mask=True,
        )
        return self.generate_frames(positive, negative, latent, self.seed, noise, model=self.inpainter)

    def edit_by_instruction(self, noise: str) -> dict:
        """The frames edited independently with InstructPix2Pix: a LATENT."""

        def encode_text(text: str) -> list:
            return self.pack.run("CLIPTextEncode", clip=self.editor_clip, text=text)[0]

        positive, negative, latent = self.pack.run(
            "InstructPixToPixConditioning",
            positive=encode_text(self.scene.instruction),
            negative=encode_text(""),
            vae=self.vae,
            pixels=self.scene.source.frames,
        )
        (guider,) = self.pack.run(
            "DualCFGGuider",
            model=self.editor,
            cond1=positive,
            cond2=negative,
            negative=encode_text(""),
            cfg_conds=FRAME_CFG,
            cfg_cond2_negative=1.5,
            style="regular",
        )
        return self.run_custom_sampler(guider, self.frame_noise(self.seed, noise), latent, model=self.editor)

    def run(self, case: StudyCase) -> dict:
        """The figures of a case on the scene."""
        positive, goal = self.encode_goal(case.task)
        if case.method == "source":
            made = self.stage(("source", case.task), self.encode, goal.frames)
        elif case.method == "tuned per clip":
            made = self.stage(("tuned", case.task), self.edit_tuned, self.stage(("tuned",), self.tune))
        elif case.method in BRIDGES:
            made = self.stage((case,), self.run_bridge, case, positive)
        else:
            made = self.process_frames(case, positive)
        frames = self.decode(made.result)
        if case.method == "average of 3":
            frames = average_three_frames(frames)
        if case.task == "inpainting":
            frames = torch.lerp(self.scene.source.frames, frames, self.mask[..., None])
        return toy_metrics.measure_figures(frames, goal) | {"calls": made.calls}

    def process_frames(self, case: StudyCase, positive: list) -> PricedResult:
        """The frames of the image model, smoothed by the case's method if it has a video model: a LATENT."""

        def make_frames() -> dict:
            # Without the mask, so that the next models process the whole picture.
            return {"samples": self.make_frames(case.task, case.noise)["samples"]}

        frames = self.stage(("frames", case.task, case.noise), make_frames)
        if case.method == "video to video":
            inputs = (self.videos[case.pair], positive, frames)
            return self.stage((case,), self.run_ksampler, *inputs, self.seed, case.strength, case.steps)
        if case.method == DEFAULT_CASE.method:
            return self.smooth_frames(case, frames, positive)
        if case.method == WITH_STRUCTURE_PASS:
            smoothed = self.smooth_frames(replace(case, method=DEFAULT_CASE.method), frames, positive)
            controlled = self.apply_outline_control(self.scene.source.frames, positive)
            return self.run_step(self.structure_pass, smoothed, positive, controlled, case.steps)
        return frames

    def smooth_frames(self, case: StudyCase, frames: PricedResult, positive: list) -> PricedResult:
        """Invert frames with the models that the case's ratio needs, blend and smooth: a LATENT."""
        name = (case.task, case.noise, case.solver, case.steps, case.strength)
        settings = {"strength": case.strength, "solver": case.solver, "steps": case.steps}
        model, image, video = self.videos[case.pair], None, None
        if case.ratio > 0:
            image = self.stage(("image", *name), self.invert_image, frames, positive, **settings)
        if case.ratio < 1:
            name = ("video", case.pair, *name)
            video = self.stage(name, self.invert_video, frames, positive, model=model, **settings)
        blended = self.run_step(self.blend, image, video, case.ratio, case.mode)
        return self.stage((case,), self.smooth, blended, positive, case.steps, model=model)

    def run_bridge(self, case: StudyCase, positive: list) -> dict:
        """Both models in one sampling run from white noise: a LATENT."""
        controlled = self.apply_outline_control(self.scene.source.frames, positive)
        guider = self.make_bridge_guider(controlled, positive, 1.0, case.method, case.ratio)
        noise = self.frame_noise(self.seed, case.noise)
        return self.run_custom_sampler(guider, noise, self.empty_latent(toy_world.FRAMES), case.steps)

    def tune(self) -> object:
        """A video MODEL trained only on the source clip, as in Tune-A-Video (arXiv 2212.11565).

        It is the inflated image model; only its new layers and its queries are trained.
        """
        demo = self.pack.import_module("bivdiff_core.host.loaders.demo_models")
        latent = self.encode(self.scene.source.frames)["samples"]
        clips = self.video.model.process_latent_in(latent).clone().transpose(0, 1)[None]
        caption = self.encode_text(self.scene.source.full_caption)[0][0].clone()
        torch.manual_seed(self.seed)
        image = demo_networks.image_unet()
        image.load_state_dict(models.load_weights("image_unet"))
        net = demo_networks.inflate(image).requires_grad_(False)
        copied = set(image.state_dict())
        trained = [p for name, p in net.named_parameters() if name not in copied or ".to_q." in name]
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, lr=1e-3)
        generator = torch.Generator().manual_seed(self.seed)
        batch, context = clips.expand(TUNING_BATCH, -1, -1, -1, -1), caption.expand(TUNING_BATCH, -1, -1)
        for _ in range(TUNING_STEPS):
            loss = diffusion_loss(batch, generator, lambda x, t: net(x, t, context).sample)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.counted += 3 * batch.shape[0] * batch.shape[2]  # forward, and backward at twice the cost
        weights = net.state_dict()

        def load(disable_dynamic: bool = False):
            return demo.build_model(
                demo.DemoVideoModel(models.VIDEO_UNET_CONFIG), dict(weights), load, (), disable_dynamic
            )

        model = load()
        self.count(model)
        return model

    def edit_tuned(self, model) -> dict:
        """Invert the source and denoise it with the goal's caption, both with the tuned model: a LATENT."""
        caption = self.encode_text(self.scene.source.full_caption)
        inverted = self.invert_video(self.encode(self.scene.source.frames), caption, 1.0, model=model, steps=20)
        return self.smooth(inverted, self.encode_goal("prompt2prompt")[0], 20, cfg=FRAME_CFG, model=model)


def with_linear_betas(model):
    """The video MODEL with AnimateDiff's noise schedule: other noise levels, with a maximum of 25.1 instead of 14.6.

    The network gets the timestep that it was trained on for each level; above its maximum, the last timestep.
    """
    import comfy.model_sampling

    class LinearBetas(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        def __init__(self) -> None:
            super().__init__()
            self.learnt = comfy.model_sampling.ModelSamplingDiscrete()
            self._register_schedule(None, "sqrt_linear", 1000, *SD_BETAS)

        def timestep(self, sigma: Tensor) -> Tensor:
            return self.learnt.timestep(sigma)

    model = model.clone()
    model.add_object_patch("model_sampling", LinearBetas())
    return model
