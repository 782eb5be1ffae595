"""The study: what each control of BIVDiff does on the demo models, and what every other way does on the same clips.

    python benchmarks/study.py [--rounds 4]

Measures every case of `plan` on one clip of each motion a round, about 25 minutes a round on one core, then writes
docs/study.md with its plots (`_study_page`). What is measured stays in output/study.jsonl: an interrupted study goes on
from there, and a changed one measures only what is new. Remove that file after a change of the models or the nodes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from _records import Records
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bivdiff_core.demo import models, world  # noqa: E402
from tools import measure, train  # noqa: E402
from tools.chain import FRAME_CFG, Chain, average_of_three, start, with_jumping_colours  # noqa: E402

FIRST_CLIP = 5000  # not those of claims.py and alarm.py
MOTIONS = {
    "slow": {"speed": 0.3},
    "fast": {"speed": 2.2},
    "rotating": {"speed": 0.5, "spin": math.radians(15)},
    "crossing": {"speed": 1.0},
}
TASKS = ("controlnet", "instruct_pix2pix", "prompt2prompt", "inpainting", "own_frames")
RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
MODES = ("linear", "variance_preserving", "slerp", "frequency")
SOLVERS = ("ddim", "uni_inv", "fireflow", "fixed_point")
STEPS = (10, 20, 50)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
PAIRS = ("demo", "other schedule")
BRIDGES = ("parallel", "alternating", "interleaved")
SHARES = (0.25, 0.5, 0.75)
TUNING_STEPS, TUNING_BATCH = 200, 2
MASK_MARGIN = 2


@dataclass(frozen=True)
class Case:
    """One way to make a video: what is varied, around the middle of the study.

    method: `source`, `frame-wise`, `average of 3`, `BIVDiff`, `video to video`, `tuned per clip` or one of `BRIDGES`.
    ratio: the image model's weight, or its share where two models are bridged.
    strength: how far the inversion goes, or the denoise of video to video.
    """

    task: str = "controlnet"
    method: str = "BIVDiff"
    noise: str = "independent"
    pair: str = "demo"
    ratio: float = 0.75
    mode: str = "linear"
    solver: str = "ddim"
    steps: int = 20
    strength: float = 0.75


def plan() -> list[Case]:
    """Every case, once: two controls at a time around the middle, and the other ways."""
    middle = Case()
    cases = [replace(middle, task=t, ratio=r, pair=p) for t, r, p in product(TASKS, RATIOS, PAIRS)]
    cases += [replace(middle, ratio=r, strength=s) for r, s in product(RATIOS, STRENGTHS)]
    cases += [replace(middle, ratio=r, strength=1.0, pair=p) for r, p in product(RATIOS, PAIRS)]
    cases += [replace(middle, ratio=r, noise="shared", strength=s) for r, s in product(RATIOS, (0.5, 0.75))]
    cases += [replace(middle, ratio=r, mode=m, strength=s) for r, m, s in product(SHARES, MODES, (0.75, 1.0))]
    cases += [replace(middle, solver=s, steps=n, strength=k) for s, n, k in product(SOLVERS, STEPS, (0.75, 1.0))]
    cases += [plain(t, method, n) for t in TASKS for method in ("frame-wise", "average of 3") for n in noises(t)]
    cases += [replace(middle, task=t, method="video to video", strength=s) for t, s in product(TASKS, (0.5, 0.75))]
    cases += [replace(middle, task=t, method="tuned per clip", strength=1.0) for t in TASKS[1:3]]
    cases += [replace(middle, method=b, ratio=r, strength=1.0) for b, r in product(BRIDGES, SHARES)]
    cases += [replace(middle, method=b, ratio=0.5, noise="shared", strength=1.0) for b in BRIDGES]
    cases += [replace(middle, task=t, method="source") for t in ("controlnet", "prompt2prompt")]
    return list(dict.fromkeys(cases))


def plain(task: str, method: str, noise: str = "independent") -> Case:
    """A way that needs no video model."""
    return Case(task, method, noise)


def noises(task: str) -> tuple[str, ...]:
    """How a task's frames may be related; Prompt2Prompt and frames that are there already draw no noise."""
    return ("independent",) if task in ("prompt2prompt", "own_frames") else ("independent", "shared")


@dataclass(frozen=True)
class Scene:
    """A clip to work on. source: the clip; goal: what an edit should make of it, fully captioned; instruction: how."""

    motion: str
    source: object
    goal: object
    instruction: str


def scenes(rounds: int) -> Iterator[Scene]:
    """One clip of each motion a round; in every second round the captions leave a colour out."""
    seeds = iter(world.HELD_OUT_SEEDS[FIRST_CLIP:])
    for number in range(rounds):
        for motion, change in MOTIONS.items():
            while True:
                clip = world.make_clip(next(seeds))
                silent = clip.full_caption != clip.caption
                if (len(clip.shapes) == 2) == (motion == "crossing") and silent == (number % 2 == 1):
                    break
            clip = world.with_motion(clip, **change)
            edits = (world.recolour(clip, seed) for seed in range(100))
            edit = next(edit for edit in edits if edit.background == clip.background)
            yield Scene(motion, clip, replace(edit, caption=edit.full_caption), edit.caption)


@dataclass(frozen=True)
class Made:
    """A result with its price. frames: how many frames went through a UNet for it."""

    result: object
    seconds: float
    frames: int


class Study(Chain):
    """Every case of the plan on one scene after another; what several cases share is made once a scene."""

    def __init__(self) -> None:
        super().__init__(start())
        self.editor, self.editor_clip = self.pack.run("BIVDiffDemoModels", variant="instruct_pix2pix")[0:3:2]
        self.inpainter = self.pack.run("BIVDiffDemoModels", variant="inpaint")[0]
        self.videos = {"demo": self.video, "other schedule": on_linear_betas(self.video)}
        self.counted = 0
        for model in (self.image, self.video, self.editor, self.inpainter):
            self.count(model)

    def count(self, model) -> None:
        """Add the frames that go through a MODEL's network to `counted`."""

        def add(network, arguments) -> None:
            self.counted += len(arguments[0])

        model.model.diffusion_model.register_forward_pre_hook(add)

    def begin(self, scene: Scene, seed: int) -> None:
        """Go on to a scene."""
        self.scene, self.seed, self.stages = scene, seed, {}
        self.mask = measure.grown((scene.source.masks[0] > 0.01).float(), MASK_MARGIN)

    def stage(self, name: tuple, make: Callable[[], object]) -> Made:
        """What `make` returns, made once a scene, with its price."""
        if name not in self.stages:
            began, counted = time.perf_counter(), self.counted
            result = make()
            self.stages[name] = Made(result, time.perf_counter() - began, self.counted - counted)
        return self.stages[name]

    def texts(self, task: str) -> tuple[list, object]:
        """A task's prompt as CONDITIONING, and the clip that its video should be."""
        goal = self.scene.source if task in ("controlnet", "own_frames") else self.scene.goal
        return self.encode_text(goal.caption), goal

    def frames_of(self, task: str, noise: str) -> dict:
        """What the task's image model makes of each frame, a LATENT."""
        source, (positive, _) = self.scene.source, self.texts(task)
        if task == "controlnet":
            return self.draw(*self.outlined(source.frames, positive), self.nothing(world.FRAMES), self.seed, noise)
        if task == "instruct_pix2pix":
            return self.edit_by_instruction(noise)
        if task == "prompt2prompt":
            said = source.full_caption
            return self.edit_words(source.frames, said, self.scene.goal.caption)[0]
        if task == "own_frames":
            return self.encode(with_jumping_colours(source.frames, self.seed))
        positive, negative, latent = self.pack.run(
            "InpaintModelConditioning",
            positive=positive,
            negative=self.empty,
            vae=self.vae,
            pixels=source.frames,
            mask=self.mask,
            noise_mask=True,
        )
        return self.draw(positive, negative, latent, self.seed, noise, model=self.inpainter)

    def edit_by_instruction(self, noise: str) -> dict:
        """The frames edited one by one by InstructPix2Pix, a LATENT."""

        def encoded(text: str) -> list:
            return self.pack.run("CLIPTextEncode", clip=self.editor_clip, text=text)[0]

        positive, negative, latent = self.pack.run(
            "InstructPixToPixConditioning",
            positive=encoded(self.scene.instruction),
            negative=encoded(""),
            vae=self.vae,
            pixels=self.scene.source.frames,
        )
        (guider,) = self.pack.run(
            "DualCFGGuider",
            model=self.editor,
            cond1=positive,
            cond2=negative,
            negative=encoded(""),
            cfg_conds=FRAME_CFG,
            cfg_cond2_negative=1.5,
            style="regular",
        )
        return self.sample_custom(guider, self.frame_noise(self.seed, noise), latent, model=self.editor)

    def run(self, case: Case) -> dict:
        """A case's figures on the scene."""
        positive, goal = self.texts(case.task)
        if case.method == "source":
            stages = [self.stage(("source", case.task), lambda: self.encode(goal.frames))]
        elif case.method == "tuned per clip":
            stages = [self.stage(("tuned",), self.tune), self.stage(("tuned", case.task), self.edit_tuned)]
        elif case.method in BRIDGES:
            stages = [self.stage((case,), lambda: self.bridged(case, positive))]
        else:
            stages = [self.stage(("frames", case.task, case.noise), lambda: self.frames_of(case.task, case.noise))]
            drawn = {"samples": stages[0].result["samples"]}  # without a mask: the video model sees the whole picture
            video = self.videos[case.pair]
            if case.method == "video to video":
                given = (video, positive, drawn, self.seed, case.strength, case.steps)
                stages.append(self.stage((case,), lambda: self.sample(*given)))
            elif case.method == "BIVDiff":
                branches = self.inverted(case, drawn, positive)
                stages += [made for made in branches if made]
                mixed = self.blend(*(made and made.result for made in branches), case.ratio, case.mode)
                stages.append(self.stage((case,), lambda: self.smooth(mixed, positive, case.steps, model=video)))
        frames = self.decode(stages[-1].result)
        if case.method == "average of 3":
            frames = average_of_three(frames)
        if case.task == "inpainting":
            frames = torch.lerp(self.scene.source.frames, frames, self.mask[..., None])
        price = {"seconds": sum(made.seconds for made in stages), "frames": sum(made.frames for made in stages)}
        return self.figures(frames, goal) | price

    def inverted(self, case: Case, drawn: dict, positive: list) -> tuple[Made | None, Made | None]:
        """The frames inverted by the image and by the video model, where the case's ratio needs it."""
        name = (case.task, case.noise, case.solver, case.steps, case.strength)
        given = {"strength": case.strength, "solver": case.solver, "steps": case.steps}
        image = video = None
        if case.ratio > 0:
            image = self.stage(("image", *name), lambda: self.invert_image(drawn, positive, **given))
        if case.ratio < 1:
            given["model"] = self.videos[case.pair]
            video = self.stage(("video", case.pair, *name), lambda: self.invert_video(drawn, positive, **given))
        return image, video

    def bridged(self, case: Case, positive: list) -> dict:
        """Both models at once from plain noise, a LATENT."""
        outlined = self.outlined(self.scene.source.frames, positive)
        guider = self.bridge(outlined, positive, 1.0, case.method, case.ratio)
        noise = self.frame_noise(self.seed, case.noise)
        return self.sample_custom(guider, noise, self.nothing(world.FRAMES), case.steps)

    def tune(self) -> object:
        """A video MODEL that has seen the source clip alone: Tune-A-Video's way (arXiv 2212.11565).

        The image model inflated; its new layers and its queries learn.
        """
        demo = self.pack.import_module("bivdiff_core.host.loaders.demo_models")
        latent = self.encode(self.scene.source.frames)["samples"]
        clips = self.video.model.process_latent_in(latent).clone().transpose(0, 1)[None]
        caption = self.encode_text(self.scene.source.full_caption)[0][0].clone()
        torch.manual_seed(self.seed)
        image = models.image_unet()
        image.load_state_dict(models.load_weights("image_unet"))
        net = models.inflate(image)
        copied = set(image.state_dict())
        learnt = [p for name, p in net.named_parameters() if name not in copied or ".to_q." in name]
        optimizer = torch.optim.AdamW(learnt, lr=1e-3)
        noiser, generator = train.Noiser(), torch.Generator().manual_seed(self.seed)
        batch, told = clips.expand(TUNING_BATCH, -1, -1, -1, -1), caption.expand(TUNING_BATCH, -1, -1)
        net.requires_grad_(False)
        for parameter in learnt:
            parameter.requires_grad_(True)
        for _ in range(TUNING_STEPS):
            loss = noiser.loss(batch, generator, lambda x, t: net(x, t, told).sample)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.counted += 3 * batch.shape[0] * batch.shape[2]  # forwards, and backwards at twice the price
        weights = net.state_dict()

        def load(disable_dynamic: bool = False):
            return demo.load_model(demo.DemoVideoModel(models.VIDEO_UNET), dict(weights), load, (), disable_dynamic)

        model = load()
        self.count(model)
        return model

    def edit_tuned(self) -> dict:
        """The source inverted and drawn anew from the goal's caption by the model tuned on it, a LATENT."""
        model = self.stages["tuned",].result
        said = self.encode_text(self.scene.source.full_caption)
        inverted = self.invert_video(self.encode(self.scene.source.frames), said, 1.0, model=model, steps=20)
        return self.smooth(inverted, self.texts("prompt2prompt")[0], 20, cfg=FRAME_CFG, model=model)


def on_linear_betas(model):
    """The video MODEL on AnimateDiff's schedule: other noise levels, and a highest of 25.1 instead of 14.6.

    The network sees the timestep that it learnt for each level; above its highest, that one.
    """
    import comfy.model_sampling

    class LinearBetas(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        def __init__(self) -> None:
            super().__init__()
            self.learnt = comfy.model_sampling.ModelSamplingDiscrete()
            self._register_schedule(None, "sqrt_linear", 1000, 0.00085, 0.012)

        def timestep(self, sigma: Tensor) -> Tensor:
            return self.learnt.timestep(sigma)

    model = model.clone()
    model.add_object_patch("model_sampling", LinearBetas())
    return model


def measured(rounds: int) -> list[dict]:
    """The plan's cases on every scene, as rows: the clip's number and motion, the case, its figures."""
    study, cases = Study(), plan()
    records = Records(ROOT / "output" / "study.jsonl")
    rows = []
    with tqdm(total=rounds * len(MOTIONS) * len(cases), desc="cases") as bar:
        for number, scene in enumerate(scenes(rounds)):
            study.begin(scene, number)
            for case in cases:
                name = f"{scene.motion} {scene.source.seed} {case}"
                found = records.get(name, lambda case=case: study.run(case))
                rows.append({"clip": number, "motion": scene.motion, **asdict(case), **found})
                bar.update()
    return rows


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="clips of each motion")
    rows = measured(parser.parse_args().rounds)
    import _study_page

    _study_page.write(rows)


if __name__ == "__main__":
    main()
