"""Train the demo models from scratch: ``python -m research.train_demo_models``, two hours on two idle cores.

Stages: autoencoder, text encoder with image UNet, ControlNet, video UNet, decoder alone, the image UNet's two variants
(for InstructPix2Pix and for inpainting), a T2I-Adapter, and a style LoRA.
Each stage saves a checkpoint in the run folder every minute, and resumes from it when the command is run again. Stages
write sample pictures to the run folder, and fp16 weights to the package's weights folder.
On Linux, `MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592` in the environment saves a third of the
time, because the process then keeps freed activations.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import save_image
from tqdm import tqdm

from research import demo_networks, toy_world

log = logging.getLogger("research.train_demo_models")

CLIPS = 4096
STEPS = {
    "autoencoder": 8000,
    "image": 4000,
    "control": 2500,
    "video": 2000,
    "decoder": 1000,
    "instruct_pix2pix": 1000,
    "inpaint": 500,
    "t2i_adapter": 700,
    "lora": 300,
}
VARIANT_CLIPS = 2048
VARIANT_STRIDE = 2
SAVE_EVERY = 60.0
MAX_SNR = 5.0
KL_WEIGHT = 1e-6
LATENT_NOISE_STD = 0.05
EMPTY_CAPTION_PROBABILITY = 0.1


@dataclass
class TrainingClips:
    """The training clips. frames: uint8 ``[N, F, H, W, 3]``, controls: uint8 0/1 ``[N, F, H, W]``, captions: N."""

    frames: torch.Tensor
    controls: torch.Tensor
    captions: list[str]

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """Frames ``[B, 3, H, W]`` in -1..1, indexed over the frames of all clips."""
        return self.frames.flatten(0, 1)[index].movedim(-1, 1).float() / 127.5 - 1

    def hints(self, index: torch.Tensor) -> torch.Tensor:
        """Control images ``[B, 3, H, W]`` in 0..1, indexed over the frames of all clips."""
        return self.controls.flatten(0, 1)[index, None].float().expand(-1, 3, -1, -1)


def training_clip(seed: int) -> toy_world.ToyClip:
    """The clip of a seed, for training or evaluation: easy for even seeds, hard for odd seeds."""
    clip = toy_world.generate_clip(seed)
    return toy_world.make_hard_clip(clip) if seed % 2 else clip


def render_clips(folder: Path) -> TrainingClips:
    """Load the training clips from the run folder; render them first if they are missing."""
    path = folder / "footage.pt"
    if not path.exists():
        frames, controls, captions = [], [], []
        for seed in tqdm(toy_world.TRAIN_SEEDS[:CLIPS], desc="rendering clips"):
            clip = training_clip(seed)
            frames.append((clip.frames * 255).round().byte())
            controls.append(toy_world.canny_hints(clip.frames)[..., 0].byte())
            captions.append(clip.caption)
        save({"frames": torch.stack(frames), "controls": torch.stack(controls), "captions": captions}, path)
    return TrainingClips(**torch.load(path, weights_only=True))


def save(data: dict, path: Path) -> None:
    """Write a file atomically: an interruption leaves the old file intact."""
    torch.save(data, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def fit(
    stage: str,
    folder: Path,
    network: nn.Module,
    groups: list[dict],
    loss: Callable[[torch.Generator], torch.Tensor],
    average: float,
) -> None:
    """Train ``network`` in place and leave the moving average of its weights in it.

    groups: optimizer groups with their peak ``lr``; cosine schedule after a short warm-up.
    loss: samples a batch with the generator and returns its loss. Every step has its own seed, so a resumed run uses
    the same batches. average: decay of the moving average; smaller in the first steps.
    """
    path, steps = folder / f"{stage}.pt", STEPS[stage]
    tracked = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    smooth = {name: tensor.detach().clone() for name, tensor in tracked.items()}
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
    warm_up = max(1, steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    done = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        done, smooth = state["step"], state["smooth"]
        network.load_state_dict(state["network"])
        if done < steps:
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])

    network.train()
    running, saved, began = None, time.monotonic(), time.monotonic()
    bar = tqdm(range(done, steps), initial=done, total=steps, desc=stage, mininterval=20)
    for step in bar:
        value = loss(torch.Generator().manual_seed(stage_seed(stage) + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(tracked.values(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(average, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(smooth.values()), [tensor.detach() for tensor in tracked.values()], 1 - decay)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if step + 1 == steps or time.monotonic() - saved > SAVE_EVERY:
            state = {"step": step + 1, "network": network.state_dict(), "smooth": smooth}
            if step + 1 < steps:
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save(state, path)
            saved = time.monotonic()
    if done < steps:
        log.info("%s: %d steps in %.1f minutes", stage, steps - done, (time.monotonic() - began) / 60)
    with torch.no_grad():
        for name, tensor in tracked.items():
            tensor.copy_(smooth[name])
    network.eval()


def stage_seed(stage: str) -> int:
    """The seed base of a stage; it does not depend on other stages."""
    return zlib.crc32(stage.encode()) << 20


def save_picture(path: Path, rows: list[torch.Tensor]) -> None:
    """Write rows of images ``[N, 3, H, W]`` in -1..1 as one PNG."""
    save_image(torch.cat(rows), path, nrow=len(rows[0]), normalize=True, value_range=(-1, 1))
    log.info("picture: %s", path)


def split_indices(count: int, size: int) -> Iterator[torch.Tensor]:
    """Indices 0..count-1 in chunks of ``size``."""
    return iter(torch.arange(count).split(size))


def picture_loss(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + L1 of the differences between adjacent pixels, which keeps edges sharp."""
    edges = sum((predicted.diff(dim=dim) - true.diff(dim=dim)).abs().mean() for dim in (-1, -2))
    return (predicted - true).abs().mean() + (predicted - true).square().mean() + edges


def train_autoencoder(folder: Path, footage: TrainingClips) -> nn.Module:
    """Train encoder and decoder together, with a small KL term."""
    torch.manual_seed(stage_seed("autoencoder"))
    net = demo_networks.autoencoder().to(memory_format=torch.channels_last)  # 1/7 faster
    count = len(footage.captions) * toy_world.FRAMES

    def loss(generator: torch.Generator) -> torch.Tensor:
        image = footage.images(torch.randint(count, (10,), generator=generator))
        latent = net.encode(image).latent_dist
        noise = torch.randn(latent.mean.shape, generator=generator)
        decoded = net.decode(latent.mean + latent.std * noise).sample
        return picture_loss(decoded, image) + KL_WEIGHT * latent.kl().mean() / noise[0].numel()

    fit("autoencoder", folder, net, [{"params": list(net.parameters()), "lr": 2e-3}], loss, average=0.995)
    show_autoencoder(folder / "autoencoder.png", net)
    return net.requires_grad_(False)


def train_decoder(folder: Path, footage: TrainingClips, net: nn.Module, scaling: dict[str, list]) -> None:
    """Train only the decoder further; latents, and so the other models, do not change."""
    net.decoder.requires_grad_(True)
    net.post_quant_conv.requires_grad_(True)
    count = len(footage.captions) * toy_world.FRAMES
    std = torch.tensor(scaling["std"])[:, None, None]

    def loss(generator: torch.Generator) -> torch.Tensor:
        image = footage.images(torch.randint(count, (10,), generator=generator))
        with torch.no_grad():
            latent = net.encode(image).latent_dist.mean
            noise = torch.randn(latent.shape, generator=generator)
        # Sampled latents have small errors: train the decoder to give clean edges for them too.
        return picture_loss(net.decode(latent + LATENT_NOISE_STD * std * noise).sample, image)

    half = [*net.decoder.parameters(), *net.post_quant_conv.parameters()]
    fit("decoder", folder, net, [{"params": half, "lr": 1e-3}], loss, average=0.99)
    show_autoencoder(folder / "decoder.png", net)
    demo_networks.save_weights("autoencoder", net.state_dict(), scaling)


@torch.no_grad()
def show_autoencoder(path: Path, net: nn.Module) -> None:
    """Save a picture of held-out frames and their reconstructions, and log the PSNR."""
    held_out = [training_clip(seed).frames for seed in toy_world.HELD_OUT_SEEDS[:16]]
    image = torch.stack(held_out)[:, 0].movedim(-1, 1) * 2 - 1
    decoded = net.decode(net.encode(image).latent_dist.mean).sample.clamp(-1, 1)
    log.info("autoencoder: PSNR %.2f dB", -10 * ((decoded - image) / 2).square().mean().log10())
    save_picture(path, [image[:8], decoded[:8], image[8:], decoded[8:]])


@torch.no_grad()
def encode_clips(folder: Path, footage: TrainingClips, autoencoder: nn.Module) -> tuple[torch.Tensor, dict[str, list]]:
    """Normalised latents ``[N, F, 4, 8, 8]`` and their scaling; also saves the autoencoder's weights."""
    path = folder / "latents.pt"
    if not path.exists():
        count = len(footage.captions) * toy_world.FRAMES
        pieces = tqdm(split_indices(count, 64), total=math.ceil(count / 64), desc="encoding clips")
        raw = torch.cat([autoencoder.encode(footage.images(index)).latent_dist.mean for index in pieces])
        mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
        latents = (raw - mean[:, None, None]) / std[:, None, None]
        # Preview colours: regress the mean colour of 8x8 pixels on the latent cell.
        subset = torch.arange(0, count, 16)
        cells = latents[subset].movedim(1, -1).reshape(-1, 4)
        colours = F.avg_pool2d(footage.images(subset), 8).movedim(1, -1).reshape(-1, 3)
        solved = torch.linalg.lstsq(torch.cat((cells, torch.ones(len(cells), 1)), dim=1), colours).solution
        scaling = {"mean": mean, "std": std, "rgb_factors": solved[:4], "rgb_bias": solved[4]}
        save({"latents": latents.unflatten(0, (-1, toy_world.FRAMES)), "scaling": scaling}, path)
    stored = torch.load(path, weights_only=True)
    scaling = {key: value.tolist() for key, value in stored["scaling"].items()}
    if not (folder / "decoder.pt").exists():
        demo_networks.save_weights("autoencoder", autoencoder.state_dict(), scaling)
    return stored["latents"], scaling


Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A network's prediction of the noise, from noised latents and timesteps."""


class DiffusionLoss:
    """SD's forward process, and the loss of noise predictions."""

    def __init__(self) -> None:
        betas = (
            torch.linspace(demo_networks.SCHEDULE["beta_start"] ** 0.5, demo_networks.SCHEDULE["beta_end"] ** 0.5, 1000)
            ** 2
        )
        self.alphas = (1 - betas).cumprod(dim=0)

    def loss(self, clean: torch.Tensor, generator: torch.Generator, predict: Predict) -> torch.Tensor:
        """The mean squared error of predicted noise in latents ``[B, ...]``, each at a random timestep.

        Weights are min(1, MAX_SNR / SNR) (min-SNR, arXiv 2303.09556): less weight for almost clean latents.
        """
        t = torch.randint(1000, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        alpha = self.alphas[t].view(-1, *[1] * (clean.ndim - 1))
        weight = (MAX_SNR * (1 - alpha) / alpha).clamp(max=1)
        error = predict(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, t) - noise
        return (weight * error.square()).mean()


def drop_captions(ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Token ids ``[B, 16]``, with a random tenth of the rows replaced by the empty caption."""
    empty = torch.rand(len(ids), generator=generator) < EMPTY_CAPTION_PROBABILITY
    return torch.where(empty[:, None], demo_networks.token_ids([""]), ids)


def train_image(folder: Path, footage: TrainingClips, latents: torch.Tensor) -> nn.ModuleDict:
    """Train the text encoder and the image UNet on single frames."""
    torch.manual_seed(stage_seed("image"))
    net = nn.ModuleDict({"text": demo_networks.text_encoder(), "unet": demo_networks.image_unet()})
    ids, flat, noiser = demo_networks.token_ids(footage.captions), latents.flatten(0, 1), DiffusionLoss()

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(flat), (64,), generator=generator)
        context = net["text"](input_ids=drop_captions(ids[index // toy_world.FRAMES], generator)).last_hidden_state
        return noiser.loss(flat[index], generator, lambda x, t: net["unet"](x, t, context).sample)

    fit("image", folder, net, [{"params": list(net.parameters()), "lr": 1.2e-3}], loss, average=0.998)
    demo_networks.save_weights("text_encoder", net["text"].state_dict())
    demo_networks.save_weights("image_unet", net["unet"].state_dict())
    return net.requires_grad_(False)


ControlFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], dict]
"""From noised latents, timesteps, context and control images to additional arguments of the image UNet."""


def control_net_inputs(net: nn.Module) -> ControlFunction:
    """The arguments by which a ControlNet controls the image UNet."""

    def steer(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, hints: torch.Tensor) -> dict:
        down, mid = net(x, t, context, hints, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    return steer


def t2i_adapter_inputs(net: nn.Module) -> ControlFunction:
    """The arguments by which a T2I-Adapter controls the image UNet; it depends only on the outlines."""
    return lambda x, t, context, hints: {"down_intrablock_additional_residuals": net(hints[:, :1])}


def train_control_model(
    stage: str,
    folder: Path,
    footage: TrainingClips,
    latents: torch.Tensor,
    image: nn.ModuleDict,
    net: nn.Module,
    steer: ControlFunction,
) -> None:
    """Train a control network on single frames and their Canny edges; the image model is frozen."""
    ids, flat, noiser = demo_networks.token_ids(footage.captions), latents.flatten(0, 1), DiffusionLoss()

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(flat), (64,), generator=generator)
        context = image["text"](input_ids=drop_captions(ids[index // toy_world.FRAMES], generator)).last_hidden_state
        hints = footage.hints(index)
        return noiser.loss(
            flat[index], generator, lambda x, t: image["unet"](x, t, context, **steer(x, t, context, hints)).sample
        )

    fit(stage, folder, net, [{"params": list(net.parameters()), "lr": 1.2e-3}], loss, average=0.995)


def train_control(folder: Path, footage: TrainingClips, latents: torch.Tensor, image: nn.ModuleDict) -> ControlFunction:
    """Train the ControlNet."""
    torch.manual_seed(stage_seed("control"))
    net = demo_networks.control_net(image["unet"]).requires_grad_(True)
    train_control_model("control", folder, footage, latents, image, net, control_net_inputs(net))
    demo_networks.save_weights("control_net", net.state_dict())
    return control_net_inputs(net)


def train_t2i_adapter(
    folder: Path, footage: TrainingClips, latents: torch.Tensor, image: nn.ModuleDict
) -> ControlFunction:
    """Train the T2I-Adapter (arXiv 2302.08453)."""
    torch.manual_seed(stage_seed("t2i_adapter"))
    net = demo_networks.t2i_adapter()
    train_control_model("t2i_adapter", folder, footage, latents, image, net, t2i_adapter_inputs(net))
    demo_networks.save_weights("t2i_adapter", net.state_dict())
    return t2i_adapter_inputs(net)


def train_video(folder: Path, footage: TrainingClips, latents: torch.Tensor, image: nn.ModuleDict) -> nn.Module:
    """Train the video UNet on whole clips, with a lower learning rate for the layers of the image model."""
    torch.manual_seed(stage_seed("video"))
    net = demo_networks.inflate(image["unet"])
    copied = set(image["unet"].state_dict())
    groups = [
        {"params": [p for name, p in net.named_parameters() if name not in copied], "lr": 1.2e-3},
        {"params": [p for name, p in net.named_parameters() if name in copied], "lr": 3e-4},
    ]
    ids, noiser = demo_networks.token_ids(footage.captions), DiffusionLoss()

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(latents), (8,), generator=generator)
        clips = latents[index].transpose(1, 2)
        # A reversed clip follows the same rules.
        backwards = torch.rand(len(clips), 1, 1, 1, 1, generator=generator) < 0.5
        clips = torch.where(backwards, clips.flip(2), clips)
        context = image["text"](input_ids=drop_captions(ids[index], generator)).last_hidden_state
        return noiser.loss(clips, generator, lambda x, t: net(x, t, context).sample)

    fit("video", folder, net, groups, loss, average=0.998)
    demo_networks.save_weights("video_unet", net.state_dict())
    return net.requires_grad_(False)


@torch.no_grad()
def encode_edits(folder: Path, encode: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor | list[str]]:
    """Latents ``[N, 4, 8, 8]`` of frames before and after a colour change, and the instructions."""
    path = folder / "edits.pt"
    if not path.exists():
        before, after, captions = [], [], []
        for seed in tqdm(toy_world.TRAIN_SEEDS[:VARIANT_CLIPS], desc="encoding edits"):
            clip = training_clip(seed)
            edited = toy_world.recolour(clip, seed)
            pair = torch.cat((clip.frames[::VARIANT_STRIDE], edited.frames[::VARIANT_STRIDE])).movedim(-1, 1)
            for latents, half in zip((before, after), encode(pair * 2 - 1).chunk(2), strict=True):
                latents.append(half)
            captions += [edited.caption] * len(before[-1])
        save({"before": torch.cat(before), "after": torch.cat(after), "captions": captions}, path)
    return torch.load(path, weights_only=True)


def train_instruct_pix2pix(
    folder: Path, image: nn.ModuleDict, scaling: dict[str, list], encode: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Train the variant that recolours by instruction (arXiv 2211.09800); the frame to edit is in four more channels.

    Text, frame and both are each dropped with probability 1/20, for guidance. A dropped frame is zero in the VAE's
    scale, as in ComfyUI.
    """
    torch.manual_seed(stage_seed("instruct_pix2pix"))
    net = demo_networks.add_input_channels(image["unet"], channels=4)
    pairs, noiser = encode_edits(folder, encode), DiffusionLoss()
    ids, empty = demo_networks.token_ids(pairs["captions"]), demo_networks.token_ids([""])
    nothing = -(torch.tensor(scaling["mean"]) / torch.tensor(scaling["std"]))[:, None, None]

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(ids), (64,), generator=generator)
        dropped = torch.rand(len(index), generator=generator)
        text_ids = torch.where((dropped < 0.1)[:, None], empty, ids[index])
        shown = torch.where(((dropped > 0.05) & (dropped < 0.15))[:, None, None, None], nothing, pairs["before"][index])
        context = image["text"](input_ids=text_ids).last_hidden_state
        return noiser.loss(
            pairs["after"][index], generator, lambda x, t: net(torch.cat((x, shown), dim=1), t, context).sample
        )

    trainable = [tensor for tensor in net.parameters() if tensor.requires_grad]
    fit("instruct_pix2pix", folder, net, [{"params": trainable, "lr": 2e-3}], loss, average=0.99)
    demo_networks.save_weights("instruct_pix2pix", demo_networks.trained_weights(net))


def random_masks(count: int, generator: torch.Generator) -> torch.Tensor:
    """Inpainting masks ``[N, 1, H, W]``, 0 or 1: blocks, discs, or one side of the picture."""
    grid = toy_world.pixel_grid().movedim(-1, 0)[None]
    centre = toy_world.SIZE * torch.rand(count, 2, 1, 1, generator=generator)
    reach = toy_world.SIZE * (0.12 + 0.25 * torch.rand(count, 2, 1, 1, generator=generator))
    offset = (grid - centre) / reach
    block, disc = offset.abs().amax(dim=1) < 1, offset.square().sum(dim=1) < 1
    turn = torch.randint(4, (count,), generator=generator)
    sides = torch.stack((grid[:, 0], toy_world.SIZE - 1 - grid[:, 0], grid[:, 1], toy_world.SIZE - 1 - grid[:, 1]))[
        :, 0
    ]
    side = sides[turn] < reach[:, 0]
    kind = torch.randint(3, (count, 1, 1), generator=generator)
    return torch.where(kind == 0, block, torch.where(kind == 1, disc, side))[:, None].float()


@torch.no_grad()
def encode_masked_frames(
    folder: Path, footage: TrainingClips, encode: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Masked frames as in ComfyUI's inpainting: grey under the mask, then encoded; one mask per frame.

    index: of the frame, ``[N]``. masks: ``[N, 1, 8, 8]``, 1 where to inpaint. masked: latents ``[N, 4, 8, 8]``.
    """
    path = folder / "holes.pt"
    if not path.exists():
        generator = torch.Generator().manual_seed(stage_seed("inpaint") - 1)
        index = torch.arange(0, VARIANT_CLIPS * toy_world.FRAMES, VARIANT_STRIDE)
        masks = random_masks(len(index), generator)
        pieces = tqdm(split_indices(len(index), 64), total=math.ceil(len(index) / 64), desc="encoding holes")
        masked = torch.cat([encode(footage.images(index[piece]) * (1 - masks[piece])) for piece in pieces])
        small = F.interpolate(masks, size=masked.shape[-2:], mode="bilinear").round()
        save({"index": index, "masks": small, "masked": masked}, path)
    return torch.load(path, weights_only=True)


def train_inpaint(
    folder: Path,
    footage: TrainingClips,
    latents: torch.Tensor,
    image: nn.ModuleDict,
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Train the inpainting variant; mask and masked frame are in five more channels, as in SD's."""
    torch.manual_seed(stage_seed("inpaint"))
    net = demo_networks.add_input_channels(image["unet"], channels=5)
    ids, flat, noiser = demo_networks.token_ids(footage.captions), latents.flatten(0, 1), DiffusionLoss()
    holes = encode_masked_frames(folder, footage, encode)

    def loss(generator: torch.Generator) -> torch.Tensor:
        row = torch.randint(len(holes["index"]), (64,), generator=generator)
        index = holes["index"][row]
        context = image["text"](input_ids=drop_captions(ids[index // toy_world.FRAMES], generator)).last_hidden_state
        around = torch.cat((holes["masks"][row], holes["masked"][row]), dim=1)
        return noiser.loss(flat[index], generator, lambda x, t: net(torch.cat((x, around), dim=1), t, context).sample)

    trainable = [tensor for tensor in net.parameters() if tensor.requires_grad]
    fit("inpaint", folder, net, [{"params": trainable, "lr": 2e-3}], loss, average=0.99)
    grey = encode(torch.zeros(1, 3, toy_world.SIZE, toy_world.SIZE)).mean(dim=(0, 2, 3))
    demo_networks.save_weights("inpaint", demo_networks.trained_weights(net), {"grey": grey.tolist()})


@torch.no_grad()
def encode_style(
    folder: Path, footage: TrainingClips, encode: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """First frames of clips in the LoRA's style. index: of the frame, ``[N]``. latents: ``[N, 4, 8, 8]``."""
    path = folder / "style.pt"
    if not path.exists():
        index = torch.arange(0, VARIANT_CLIPS * toy_world.FRAMES, toy_world.FRAMES)
        latents = []
        for piece in tqdm(split_indices(len(index), 64), total=math.ceil(len(index) / 64), desc="encoding style"):
            frames = footage.images(index[piece]).movedim(1, -1)
            latents.append(encode(toy_world.to_grayscale(frames).movedim(-1, 1)))
        save({"index": index, "latents": torch.cat(latents)}, path)
    return torch.load(path, weights_only=True)


def train_lora(
    folder: Path, footage: TrainingClips, image: nn.ModuleDict, encode: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Train the LoRA: grey pictures for every caption."""
    torch.manual_seed(stage_seed("lora"))
    net = demo_networks.lora(image["unet"])
    ids, styled, noiser = (
        demo_networks.token_ids(footage.captions),
        encode_style(folder, footage, encode),
        DiffusionLoss(),
    )

    def loss(generator: torch.Generator) -> torch.Tensor:
        row = torch.randint(len(styled["index"]), (64,), generator=generator)
        text_ids = drop_captions(ids[styled["index"][row] // toy_world.FRAMES], generator)
        context = image["text"](input_ids=text_ids).last_hidden_state
        return noiser.loss(styled["latents"][row], generator, lambda x, t: net(x, t, context).sample)

    trainable = [tensor for tensor in net.parameters() if tensor.requires_grad]
    fit("lora", folder, net, [{"params": trainable, "lr": 2e-3}], loss, average=0.99)
    demo_networks.save_weights(demo_networks.LORA_NAME, demo_networks.lora_weights(net))


@torch.no_grad()
def sample(
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    image: nn.ModuleDict,
    captions: list[str],
    noise: torch.Tensor,
    steps: int = 25,
    guidance: float = 3.0,
) -> torch.Tensor:
    """DDIM samples from ``noise`` ``[B, 4, ...]``; ``predict(x, t, context)`` predicts the noise of cond and uncond."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**demo_networks.SCHEDULE)
    scheduler.set_timesteps(steps)
    context = image["text"](input_ids=demo_networks.token_ids([*captions, *[""] * len(captions)])).last_hidden_state
    x = noise
    for t in scheduler.timesteps:
        cond, uncond = predict(torch.cat((x, x)), t.expand(2 * len(x)), context).chunk(2)
        x = scheduler.step(uncond + guidance * (cond - uncond), t, x).prev_sample
    return x


@torch.no_grad()
def show_samples(
    path: Path,
    autoencoder: nn.Module,
    scaling: dict[str, list],
    image: nn.ModuleDict,
    steer: ControlFunction | None = None,
) -> None:
    """Save samples of the image model for held-out captions, with their control images if ``steer`` is given."""
    clips = [training_clip(seed) for seed in toy_world.HELD_OUT_SEEDS[:16]]
    hints = torch.cat([toy_world.canny_hints(clip.frames[:1]) for clip in clips]).movedim(-1, 1)

    def predict(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        steering = steer(x, t, context, torch.cat((hints, hints))) if steer else {}
        return image["unet"](x, t, context, **steering).sample

    noise = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latent = sample(predict, image, [clip.caption for clip in clips], noise)
    mean, std = (torch.tensor(scaling[key])[:, None, None] for key in ("mean", "std"))
    samples = autoencoder.decode(latent * std + mean).sample
    top = hints if steer else torch.stack([clip.frames[0].movedim(-1, 0) for clip in clips])
    save_picture(path, [top[:8] * 2 - 1, samples[:8], top[8:] * 2 - 1, samples[8:]])


def main() -> None:
    """Run every stage that is not finished yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("output/demo-training"), help="folder for checkpoints")
    folder = parser.parse_args().run
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    footage = render_clips(folder)
    autoencoder = train_autoencoder(folder, footage)
    latents, scaling = encode_clips(folder, footage, autoencoder)
    image = train_image(folder, footage, latents)
    show_samples(folder / "image.png", autoencoder, scaling, image)
    control = train_control(folder, footage, latents, image)
    show_samples(folder / "control.png", autoencoder, scaling, image, control)
    train_video(folder, footage, latents, image)
    train_decoder(folder, footage, autoencoder, scaling)

    def encode(frames: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(scaling[key])[:, None, None] for key in ("mean", "std"))
        return (autoencoder.encode(frames).latent_dist.mean - mean) / std

    train_instruct_pix2pix(folder, image, scaling, encode)
    train_inpaint(folder, footage, latents, image, encode)
    adapter = train_t2i_adapter(folder, footage, latents, image)
    show_samples(folder / "t2i_adapter.png", autoencoder, scaling, image, adapter)
    train_lora(folder, footage, image, encode)


if __name__ == "__main__":
    main()
