"""Train the modern pair: ``python -m research.train_modern_pair STAGE``; a stage takes up to 100 minutes of two cores.

Stages, in order: vae, qwen, wan, experts, distilled. Each saves checkpoints in the run folder every minute, resumes
from them when the command is run again, and ends in weights of research/modern_weights, with which the next begins.
On Linux, `MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592` in the environment saves time, because
the process then keeps freed activations.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm import tqdm

from research import demo_networks, modern_clips, modern_pair, toy_world
from research.training import drop_captions, fit, load_or_compute, picture_loss, save_picture, stage_seed
from tools.in_process_comfyui import use_comfyui

log = logging.getLogger(__name__)

STEPS = {
    "vae": 10000,
    "decoder": 1500,
    "qwen": 20000,
    "wan": 20000,
    "wan_high_noise": 1200,
    "wan_low_noise": 1200,
    "distilled": 1500,
}
CLIPS, FLICKERING_CLIPS, LONG_CLIPS, PAIRS = 3072, 1536, 320, 4608
FLICKERING = 0.3
"""Share of the clips that flicker, as frame-wise results do. Only the VAE sees them."""
STILLS_ONLY = 0.2
"""Share of the VAE's steps that see single frames only."""
KL_WEIGHT, LATENT_NOISE_STD = 1e-4, 0.05
BOUNDARY = 0.875
"""Noise level between the two experts, as in Wan 2.2 for text."""
DISTILLED_STEPS, TEACHER_STEPS, TEACHER_CFG, SHIFT = 4, 4, 3.0, 8.0
"""Steps of the distilled model; steps and guidance of its teacher in each of them; shift of their noise levels."""
LORA_RANK = 16
HELD_OUT = 4


def to_bytes(frames: Tensor) -> Tensor:
    """Frames 0..1 as bytes."""
    return (frames * 255).round().byte()


def render_footage() -> dict:
    """clips and flickering: ``[N, 9, H, W, 3]``, long: of 17 frames, bytes; captions of clips and long."""
    seeds = toy_world.TRAIN_SEEDS[CLIPS : CLIPS + FLICKERING_CLIPS]
    made = {"flickering": torch.stack([draw_flickering_clip(seed) for seed in tqdm(seeds, desc="rendering flicker")])}
    for name, count, frames in (("clips", CLIPS, modern_clips.FRAMES), ("long", LONG_CLIPS, modern_clips.LONG_FRAMES)):
        clips = [
            modern_clips.training_clip(seed, frames)
            for seed in tqdm(toy_world.TRAIN_SEEDS[:count], desc=f"rendering {name}")
        ]
        made[name] = torch.stack([to_bytes(clip.frames) for clip in clips])
        made[f"{name} captions"] = [clip.caption for clip in clips]
    return made


def draw_flickering_clip(seed: int) -> Tensor:
    """The clip of a seed as an editor draws it frame by frame, ``[9, H, W, 3]``, bytes."""
    flicker = modern_clips.FLICKERS[seed % len(modern_clips.FLICKERS)]
    return to_bytes(modern_clips.draw_with_flicker(modern_clips.training_clip(seed), flicker, seed))


def render_pairs() -> dict:
    """Single frames before and after an edit that changes every colour and marking, and full captions of the edits."""
    before, after, captions = [], [], []
    for seed in tqdm(toy_world.TRAIN_SEEDS[:PAIRS], desc="rendering pairs"):
        clip = modern_clips.training_clip(seed, 1)
        clip = replace(clip, times=(int(np.random.default_rng(seed).integers(toy_world.FRAMES)),))
        edited = toy_world.redress(clip, seed)
        before.append(to_bytes(clip.frames[0]))
        after.append(to_bytes(edited.frames[0]))
        captions.append(edited.caption)
    return {"before": torch.stack(before), "after": torch.stack(after), "captions": captions}


def to_clips(frames: Tensor) -> Tensor:
    """Bytes ``[B, F, H, W, 3]`` as clips ``[B, 3, F, H, W]`` in -1..1."""
    return (frames.movedim(-1, 1).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last_3d)


def flow_loss(clean: Tensor, generator: Generator, predict, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The mean squared error of the predicted velocity at random noise levels, half uniform, half logit-normal."""
    count = len(clean)
    uniform, normal = torch.rand(count, generator=generator), torch.randn(count, generator=generator)
    level = torch.where(torch.rand(count, generator=generator) < 0.5, uniform, torch.sigmoid(normal))
    level = low + (high - low) * level
    noise = torch.randn(clean.shape, generator=generator)
    share = level.view(-1, 1, 1, 1, 1)
    return F.mse_loss(predict((1 - share) * clean + share * noise, level), noise - clean)


class ModernTraining:
    """The stages; folder: the run folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.footage = load_or_compute(folder / "footage.pt", render_footage)

    def fit(self, stage: str, network: nn.Module, loss, lr: float, average: float) -> None:
        """Train the network of a stage, see `training.fit`."""
        fit(self.folder / f"{stage}.pt", STEPS[stage], network, loss, lr, average)

    def random_clips(self, generator: Generator, stills_only: bool) -> Tensor:
        """A batch of 17, 9, 5 or single frames, mirrored or reversed at random."""
        u = torch.rand(1, generator=generator).item()
        name, count, frames = "clips", 5, 1
        if not stills_only:
            if u < 0.02:
                name, count, frames = "long", 2, modern_clips.LONG_FRAMES
            elif u < 0.42:
                count, frames = 2, modern_clips.FRAMES
            elif u < 0.77:
                count, frames = 2, 5
        if frames in (5, modern_clips.FRAMES) and torch.rand(1, generator=generator).item() < FLICKERING:
            name = "flickering"
        footage = self.footage[name]
        index = torch.randint(len(footage), (count,), generator=generator)
        start = torch.randint(footage.shape[1] - frames + 1, (1,), generator=generator).item()
        clips = to_clips(footage[index, start : start + frames])
        for dim, chance in zip((-1, -2, 2), torch.rand(3, generator=generator), strict=True):
            if chance < 0.5:
                clips = clips.flip(dim)
        return clips.contiguous(memory_format=torch.channels_last_3d)

    def train_vae(self) -> None:
        """Train encoder and decoder, first on single frames, then the decoder alone; save the VAE in Wan's scale."""
        net = modern_pair.make_vae()
        for layer in net.modules():
            if isinstance(layer, nn.Conv3d):
                layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last_3d)
        whole = modern_pair.WholeClips(net)

        def loss(generator: Generator) -> Tensor:
            step = generator.initial_seed() - stage_seed("vae")
            clips = self.random_clips(generator, step < STILLS_ONLY * STEPS["vae"])
            mean, log_variance = whole.encode(clips)
            log_variance = log_variance.clamp(-20, 10)
            latent = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
            return picture_loss(whole.decode(latent), clips) + KL_WEIGHT * divergence

        self.fit("vae", net, loss, lr=2e-3, average=0.995)
        net.encoder.requires_grad_(False)
        net.conv1.requires_grad_(False)
        mean, std = self.measure_latents(whole)

        def decoder_loss(generator: Generator) -> Tensor:
            clips = self.random_clips(generator, stills_only=False)
            with torch.no_grad():
                latent = whole.encode(clips)[0]
            noise = torch.randn(latent.shape, generator=generator) * std.view(1, -1, 1, 1, 1)
            return picture_loss(whole.decode(latent + LATENT_NOISE_STD * noise), clips)

        self.fit("decoder", net, decoder_loss, lr=1e-3, average=0.99)
        self.show_vae(whole)
        modern_pair.rescale_latents(net, mean, std)
        modern_pair.save_weights("vae", net.state_dict())

    @torch.no_grad()
    def measure_latents(self, whole: modern_pair.WholeClips) -> tuple[Tensor, Tensor]:
        """Mean and std ``[16]`` of the latents of training clips."""
        batches = self.footage["clips"][:512].split(16)
        latents = torch.cat([whole.encode(to_clips(batch))[0] for batch in batches])
        return latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))

    @torch.no_grad()
    def show_vae(self, whole: modern_pair.WholeClips) -> None:
        """Log the PSNR of held-out clips and of single frames, and save a picture of them."""
        rows, seeds = [], toy_world.HELD_OUT_SEEDS[: 2 * HELD_OUT]
        clips = torch.stack([to_bytes(modern_clips.training_clip(seed).frames) for seed in seeds])
        flickering = torch.stack([draw_flickering_clip(seed) for seed in seeds])
        for name, frames in (("easy", clips[::2]), ("hard", clips[1::2]), ("flickering", flickering[1::2])):
            true = to_clips(frames)
            for part_name, part in (("clips", true), ("single frames", true[:, :, 4:5])):
                made = whole.decode(whole.encode(part)[0]).clamp(-1, 1)
                error = ((made - part) / 2).square().mean()
                log.info("%s, %s: PSNR %.2f dB", name, part_name, -10 * error.log10())
                rows += [part[:, :, -1], made[:, :, -1]]
        save_picture(self.folder / "vae.png", rows)

    def load_latents(self) -> dict[str, Tensor]:
        """Latents of all footage in the scale of the models, and text vectors of the captions."""
        pairs = load_or_compute(self.folder / "pairs.pt", render_pairs)

        def encode() -> dict:
            vae = modern_pair.make_vae()
            vae.load_state_dict(modern_pair.load_weights("vae"))
            whole = modern_pair.WholeClips(vae)
            import comfy.latent_formats

            to_model = comfy.latent_formats.Wan21().process_in
            sources = {"clips": self.footage["clips"], "long": self.footage["long"]}
            sources |= {name: pairs[name][:, None] for name in ("before", "after")}
            return {
                name: torch.cat(
                    [to_model(whole.encode(to_clips(batch))[0]) for batch in tqdm(frames.split(16), desc=name)]
                )
                for name, frames in sources.items()
            }

        latents = load_or_compute(self.folder / "latents.pt", encode)
        captions = {name: self.footage[f"{name} captions"] for name in ("clips", "long")}
        captions |= {"after": pairs["captions"], "empty": [""]}
        return latents | {f"{name} text": encode_texts(texts) for name, texts in captions.items()}

    def train_qwen(self) -> None:
        """Train the image model: edits of a reference, and pictures from text alone."""
        data = self.load_latents()
        torch.manual_seed(stage_seed("qwen"))
        net = modern_pair.make_qwen()

        def loss(generator: Generator) -> Tensor:
            u = torch.rand(1, generator=generator).item()
            name, count = ("after", 32) if u < 0.72 else ("after", 40) if u < 0.86 else ("clips", 40)
            index = torch.randint(len(data[name]), (count,), generator=generator)
            text = drop_captions(data[f"{name} text"][index], data["empty text"], generator)
            references = [data["before"][index]] if u < 0.72 else None

            def predict(x: Tensor, level: Tensor) -> Tensor:
                return net(x, level, text, ref_latents=references, transformer_options={})

            return flow_loss(data[name][index][:, :, :1], generator, predict)

        self.fit("qwen", net, loss, lr=1.5e-3, average=0.998)
        modern_pair.save_weights("qwen", net.state_dict())

    def video_loss(self, net: nn.Module, data: dict[str, Tensor], low: float = 0.0, high: float = 1.0):
        """The loss of the video model: clips of three and five latents, and single frames."""

        def loss(generator: Generator) -> Tensor:
            u = torch.rand(1, generator=generator).item()
            name, count, length = "clips", 16, 3
            if u > 0.86:
                name, count, length = "long", 10, 5
            elif u > 0.72:
                name, count, length = ("after" if u > 0.79 else "clips"), 40, 1
            index = torch.randint(len(data[name]), (count,), generator=generator)
            text = drop_captions(data[f"{name} text"][index], data["empty text"], generator)

            def predict(x: Tensor, level: Tensor) -> Tensor:
                return net(x, 1000 * level, text, transformer_options={})

            return flow_loss(data[name][index][:, :, :length], generator, predict, low, high)

        return loss

    def train_wan(self) -> None:
        """Train the video model."""
        data = self.load_latents()
        torch.manual_seed(stage_seed("wan"))
        net = modern_pair.make_wan()
        self.fit("wan", net, self.video_loss(net, data), lr=1.5e-3, average=0.998)
        modern_pair.save_weights("wan", net.state_dict())

    def train_experts(self) -> None:
        """Train the video model on, apart for the noise levels above and below `BOUNDARY`."""
        data = self.load_latents()
        for stage, low, high in (("wan_high_noise", BOUNDARY, 1.0), ("wan_low_noise", 0.0, BOUNDARY)):
            torch.manual_seed(stage_seed(stage))
            net = modern_pair.make_wan()
            net.load_state_dict(modern_pair.load_weights("wan"))
            self.fit(stage, net, self.video_loss(net, data, low, high), lr=1e-3, average=0.99)
            modern_pair.save_weights(stage, net.state_dict())

    def train_distilled(self) -> None:
        """Train a LoRA with which the video model takes `DISTILLED_STEPS` steps without guidance.

        In each of these steps it learns the result of `TEACHER_STEPS` guided steps of the model without the LoRA.
        """
        data = self.load_latents()
        torch.manual_seed(stage_seed("distilled"))
        teacher, net = modern_pair.make_wan().requires_grad_(False), modern_pair.make_wan().requires_grad_(False)
        for model in (teacher, net):
            model.load_state_dict(modern_pair.load_weights("wan"))
        demo_networks.add_low_rank_changes(net, "blocks.", LORA_RANK)
        levels = shifted_levels(DISTILLED_STEPS)

        def loss(generator: Generator) -> Tensor:
            index = torch.randint(len(data["clips"]), (8,), generator=generator)
            step = torch.randint(DISTILLED_STEPS, (1,), generator=generator).item()
            start, end = levels[step], levels[step + 1]
            clean, text = data["clips"][index], data["clips text"][index]
            x = torch.lerp(clean, torch.randn(clean.shape, generator=generator), start)
            with torch.no_grad():
                target = guided_steps(teacher, x, start, end, text, data["empty text"].expand_as(text))
            return F.mse_loss(velocity(net, x, start, text), (x - target) / (start - end))

        self.fit("distilled", net, loss, lr=1e-3, average=0.99)
        changes = demo_networks.trained_weights(net)
        modern_pair.save_weights(
            "distilled_lora",
            {
                f"diffusion_model.{key.rpartition('.')[0]}.lora_{key.rpartition('.')[2]}.weight": tensor
                for key, tensor in changes.items()
            },
        )


def shifted_levels(steps: int) -> list[float]:
    """Noise levels of a schedule with `SHIFT`, from 1 to 0."""
    shares = [1 - step / steps for step in range(steps + 1)]
    return [SHIFT * share / (1 + (SHIFT - 1) * share) for share in shares]


def velocity(net: nn.Module, x: Tensor, level: float, text: Tensor) -> Tensor:
    """The video model's prediction at one noise level."""
    return net(x, torch.full((len(x),), 1000 * level), text, transformer_options={})


def guided_steps(net: nn.Module, x: Tensor, start: float, end: float, text: Tensor, empty: Tensor) -> Tensor:
    """Denoise from one noise level to another in `TEACHER_STEPS` Euler steps with guidance."""
    levels = torch.linspace(start, end, TEACHER_STEPS + 1).tolist()
    for level, following in pairwise(levels):
        plain, guided = velocity(net, x, level, empty), velocity(net, x, level, text)
        x = x + (following - level) * (plain + TEACHER_CFG * (guided - plain))
    return x


@torch.no_grad()
def encode_texts(captions: list[str]) -> Tensor:
    """Text vectors ``[B, 16, 64]`` of the demo models' text encoder."""
    from bivdiff_core.demo import models

    net = demo_networks.text_encoder().eval()
    net.load_state_dict({key: tensor.float() for key, tensor in models.load_weights("text_encoder").items()})
    ids = demo_networks.token_ids(captions)
    return torch.cat([net(input_ids=part).last_hidden_state for part in ids.split(256)])


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("vae", "qwen", "wan", "experts", "distilled"))
    parser.add_argument("--run", type=Path, default=Path("output/modern-training"), help="folder for checkpoints")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    use_comfyui(cpu=True, flags=["--use-pytorch-cross-attention"])
    import comfy.model_management

    comfy.model_management.in_training = True
    training = ModernTraining(arguments.run)
    getattr(training, f"train_{arguments.stage}")()


if __name__ == "__main__":
    main()
