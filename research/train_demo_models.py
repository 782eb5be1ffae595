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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm import tqdm

from bivdiff_core.grids import SD_BETAS
from research import demo_networks, toy_world
from research.training import Loss, drop_captions, fit, load_or_compute, picture_loss, save_picture, stage_seed

log = logging.getLogger("research.train_demo_models")

CLIPS = 4096
STEPS = {
    "autoencoder": 8000,
    "image": 4000,
    "control": 2500,
    "video": 5000,
    "decoder": 1000,
    "instruct_pix2pix": 1000,
    "inpaint": 1500,
    "t2i_adapter": 700,
    "lora": 300,
}
VARIANT_CLIPS, VARIANT_STRIDE = 2048, 2
"""Clips that train the variants of the image UNet, and the step between the frames that they use."""
MAX_SNR = 5.0
KL_WEIGHT = 1e-6
LATENT_NOISE_STD = 0.05
AUTOENCODER_BATCH, IMAGE_BATCH, VIDEO_BATCH, ENCODING_BATCH = 10, 64, 8, 64
ALPHAS = (1 - torch.linspace(SD_BETAS[0] ** 0.5, SD_BETAS[1] ** 0.5, 1000).square()).cumprod(dim=0)
"""Cumulative products of SD's schedule, one for each timestep."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""A network's prediction of the noise, from noised latents and timesteps."""
ControlFunction = Callable[[Tensor, Tensor, Tensor, Tensor], dict]
"""From noised latents, timesteps, context and control images to additional arguments of the image UNet."""


@dataclass
class TrainingClips:
    """The training clips. frames: uint8 ``[N, F, H, W, 3]``, controls: uint8 0/1 ``[N, F, H, W]``, captions: N."""

    frames: Tensor
    controls: Tensor
    captions: list[str]

    def images(self, index: Tensor) -> Tensor:
        """Frames ``[B, 3, H, W]`` in -1..1, indexed over the frames of all clips."""
        return self.frames.flatten(0, 1)[index].movedim(-1, 1).float() / 127.5 - 1

    def hints(self, index: Tensor) -> Tensor:
        """Control images ``[B, 3, H, W]`` in 0..1, indexed over the frames of all clips."""
        return self.controls.flatten(0, 1)[index, None].float().expand(-1, 3, -1, -1)


def render_clips() -> dict:
    """The fields of `TrainingClips`."""
    frames, controls, captions = [], [], []
    for seed in tqdm(toy_world.TRAIN_SEEDS[:CLIPS], desc="rendering clips"):
        clip = toy_world.training_clip(seed)
        frames.append((clip.frames * 255).round().byte())
        controls.append(toy_world.canny_hints(clip.frames)[..., 0].byte())
        captions.append(clip.caption)
    return {"frames": torch.stack(frames), "controls": torch.stack(controls), "captions": captions}


def in_ink(images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` in -1..1 as ink drawings."""
    return toy_world.draw_in_ink(images.movedim(1, -1) / 2 + 0.5).movedim(-1, 1) * 2 - 1


def diffusion_loss(clean: Tensor, generator: Generator, predict: Predict) -> Tensor:
    """The mean squared error of predicted noise in latents ``[B, ...]``, each at a random timestep.

    Weights are min(1, MAX_SNR / SNR) (min-SNR, arXiv 2303.09556): less weight for almost clean latents.
    """
    t = torch.randint(1000, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    alpha = ALPHAS[t].view(-1, *[1] * (clean.ndim - 1))
    weight = (MAX_SNR * (1 - alpha) / alpha).clamp(max=1)
    error = predict(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, t) - noise
    return (weight * error.square()).mean()


def control_net_inputs(net: nn.Module) -> ControlFunction:
    """The arguments by which a ControlNet controls the image UNet."""

    def control(x: Tensor, t: Tensor, context: Tensor, hints: Tensor) -> dict:
        down, mid = net(x, t, context, hints, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    return control


def t2i_adapter_inputs(net: nn.Module) -> ControlFunction:
    """The arguments by which a T2I-Adapter controls the image UNet; it depends only on the outlines."""
    return lambda x, t, context, hints: {"down_intrablock_additional_residuals": net(hints[:, :1])}


def random_masks(count: int, generator: Generator) -> Tensor:
    """Inpainting masks ``[N, 1, H, W]``, 0 or 1: blocks, discs, or one side of the picture."""
    grid = toy_world.pixel_grid().movedim(-1, 0)[None]
    centre = toy_world.SIZE * torch.rand(count, 2, 1, 1, generator=generator)
    reach = toy_world.SIZE * (0.12 + 0.25 * torch.rand(count, 2, 1, 1, generator=generator))
    offset = (grid - centre) / reach
    block, disc = offset.abs().amax(dim=1) < 1, offset.square().sum(dim=1) < 1
    sides = torch.randint(4, (count,), generator=generator)
    distances = torch.cat((grid[0], toy_world.SIZE - 1 - grid[0]))  # to the left, top, right and bottom side
    margin = distances[sides] < reach[:, 0]
    kind = torch.randint(3, (count, 1, 1), generator=generator)
    return torch.where(kind == 0, block, torch.where(kind == 1, disc, margin))[:, None].float()


class DemoTraining:
    """The stages of training; each uses the results of those before it.

    folder: the run folder. clips: the training clips; ids: token ids ``[N, 16]`` of their captions.
    latents: normalised latents ``[N * F, 4, 8, 8]`` of their frames; scaling: see ``read_latent_scaling``.
    autoencoder, text_encoder, image_unet: the trained networks.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.clips = TrainingClips(**load_or_compute(folder / "footage.pt", render_clips))
        self.ids = demo_networks.token_ids(self.clips.captions)

    def run(self) -> None:
        """Run every stage that is not finished yet."""
        self.train_autoencoder()
        self.encode_clips()
        self.train_image()
        self.show_samples("image")
        self.train_control_net()
        self.train_video()
        self.train_decoder()
        self.train_instruct_pix2pix()
        self.train_inpaint()
        self.train_t2i_adapter()
        self.train_lora()

    def fit(
        self, stage: str, network: nn.Module, loss: Loss, lr: float, average: float, slow: Collection[str] = ()
    ) -> None:
        """Train the network of a stage, see `training.fit`."""
        fit(self.folder / f"{stage}.pt", STEPS[stage], network, loss, lr, average, slow)

    def random_images(self, generator: Generator) -> Tensor:
        """Training frames ``[B, 3, H, W]`` for the autoencoder, of which the first is an ink drawing, for the LoRA."""
        index = torch.randint(len(self.ids) * toy_world.FRAMES, (AUTOENCODER_BATCH,), generator=generator)
        first, *others = self.clips.images(index).split(1)
        return torch.cat((in_ink(first), *others))

    def train_autoencoder(self) -> None:
        """Train encoder and decoder together, with a small KL term."""
        torch.manual_seed(stage_seed("autoencoder"))
        self.autoencoder = net = demo_networks.autoencoder().to(memory_format=torch.channels_last)  # 1/7 faster

        def loss(generator: Generator) -> Tensor:
            image = self.random_images(generator)
            latent = net.encode(image).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator)
            decoded = net.decode(latent.mean + latent.std * noise).sample
            return picture_loss(decoded, image) + KL_WEIGHT * latent.kl().mean() / noise[0].numel()

        self.fit("autoencoder", net, loss, lr=2e-3, average=0.995)
        net.requires_grad_(False)
        self.show_autoencoder("autoencoder")

    def train_decoder(self) -> None:
        """Train only the decoder further; latents, and so the other models, do not change."""
        net, std = self.autoencoder, self.scaling["std"][:, None, None]
        net.decoder.requires_grad_(True)
        net.post_quant_conv.requires_grad_(True)

        def loss(generator: Generator) -> Tensor:
            image = self.random_images(generator)
            with torch.no_grad():
                latent = net.encode(image).latent_dist.mean
                noise = torch.randn(latent.shape, generator=generator)
            # Sampled latents have small errors: train the decoder to give clean edges for them too.
            return picture_loss(net.decode(latent + LATENT_NOISE_STD * std * noise).sample, image)

        self.fit("decoder", net, loss, lr=1e-3, average=0.99)
        self.show_autoencoder("decoder")
        self.save_autoencoder()

    def save_autoencoder(self) -> None:
        """Save the autoencoder's weights with the latents' scaling."""
        scaling = {key: value.tolist() for key, value in self.scaling.items()}
        demo_networks.save_weights("autoencoder", self.autoencoder.state_dict(), scaling)

    @torch.no_grad()
    def show_autoencoder(self, stage: str) -> None:
        """Save a picture of held-out frames and their reconstructions, and log the PSNR."""
        held_out = [toy_world.training_clip(seed).frames[0] for seed in toy_world.HELD_OUT_SEEDS[:16]]
        image = torch.stack(held_out).movedim(-1, 1) * 2 - 1
        decoded = self.autoencoder.decode(self.autoencoder.encode(image).latent_dist.mean).sample.clamp(-1, 1)
        log.info("%s: PSNR %.2f dB", stage, -10 * ((decoded - image) / 2).square().mean().log10())
        save_picture(self.folder / f"{stage}.png", [image[:8], decoded[:8], image[8:], decoded[8:]])

    def encode_clips(self) -> None:
        """Encode the training clips, and save the autoencoder's weights."""

        def encode() -> dict:
            count = len(self.ids) * toy_world.FRAMES
            batches = tqdm(torch.arange(count).split(ENCODING_BATCH), desc="encoding clips")
            raw = torch.cat([self.autoencoder.encode(self.clips.images(index)).latent_dist.mean for index in batches])
            mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
            latents = (raw - mean[:, None, None]) / std[:, None, None]
            # Preview colours: regress the mean colour of 8x8 pixels on the latent cell.
            subset = torch.arange(0, count, 16)
            cells = latents[subset].movedim(1, -1).reshape(-1, 4)
            colours = F.avg_pool2d(self.clips.images(subset), 8).movedim(1, -1).reshape(-1, 3)
            solved = torch.linalg.lstsq(torch.cat((cells, torch.ones(len(cells), 1)), dim=1), colours).solution
            scaling = {"mean": mean, "std": std, "rgb_factors": solved[:4], "rgb_bias": solved[4]}
            return {"latents": latents, "scaling": scaling}

        stored = load_or_compute(self.folder / "latents.pt", encode)
        self.latents, self.scaling = stored["latents"], stored["scaling"]
        if not (self.folder / "decoder.pt").exists():
            self.save_autoencoder()

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents ``[B, 4, 8, 8]`` of images ``[B, 3, H, W]`` in -1..1."""
        mean, std = (self.scaling[key][:, None, None] for key in ("mean", "std"))
        return (self.autoencoder.encode(images).latent_dist.mean - mean) / std

    def embed(self, ids: Tensor, generator: Generator) -> Tensor:
        """The text encoder's output for captions, some of them dropped."""
        return self.text_encoder(
            input_ids=drop_captions(ids, demo_networks.token_ids([""]), generator)
        ).last_hidden_state

    def embed_captions(self, index: Tensor, generator: Generator) -> Tensor:
        """`embed` for the captions of frames, indexed over the frames of all clips."""
        return self.embed(self.ids[index // toy_world.FRAMES], generator)

    def train_image(self) -> None:
        """Train the text encoder and the image UNet on single frames."""
        torch.manual_seed(stage_seed("image"))
        net = nn.ModuleDict({"text": demo_networks.text_encoder(), "unet": demo_networks.image_unet()})
        self.text_encoder, self.image_unet = net["text"], net["unet"]

        def loss(generator: Generator) -> Tensor:
            index = torch.randint(len(self.latents), (IMAGE_BATCH,), generator=generator)
            context = self.embed_captions(index, generator)
            return diffusion_loss(self.latents[index], generator, lambda x, t: net["unet"](x, t, context).sample)

        self.fit("image", net, loss, lr=1.2e-3, average=0.998)
        net.requires_grad_(False)
        demo_networks.save_weights("text_encoder", net["text"].state_dict())
        demo_networks.save_weights("image_unet", net["unet"].state_dict())

    def train_control(self, stage: str, net: nn.Module, control: ControlFunction) -> None:
        """Train a control network on single frames and their Canny edges; the image model is frozen."""

        def loss(generator: Generator) -> Tensor:
            index = torch.randint(len(self.latents), (IMAGE_BATCH,), generator=generator)
            context, hints = self.embed_captions(index, generator), self.clips.hints(index)

            def predict(x: Tensor, t: Tensor) -> Tensor:
                return self.image_unet(x, t, context, **control(x, t, context, hints)).sample

            return diffusion_loss(self.latents[index], generator, predict)

        self.fit(stage, net, loss, lr=1.2e-3, average=0.995)
        self.show_samples(stage, control)

    def train_control_net(self) -> None:
        """Train the ControlNet."""
        torch.manual_seed(stage_seed("control"))
        net = demo_networks.control_net(self.image_unet).requires_grad_(True)
        self.train_control("control", net, control_net_inputs(net))
        demo_networks.save_weights("control_net", net.state_dict())

    def train_t2i_adapter(self) -> None:
        """Train the T2I-Adapter (arXiv 2302.08453)."""
        torch.manual_seed(stage_seed("t2i_adapter"))
        net = demo_networks.t2i_adapter()
        self.train_control("t2i_adapter", net, t2i_adapter_inputs(net))
        demo_networks.save_weights("t2i_adapter", net.state_dict())

    def train_video(self) -> None:
        """Train the video UNet on whole clips, with a lower learning rate for the layers of the image model."""
        torch.manual_seed(stage_seed("video"))
        net = demo_networks.inflate(self.image_unet)
        latents = self.latents.unflatten(0, (-1, toy_world.FRAMES)).transpose(1, 2)

        def loss(generator: Generator) -> Tensor:
            index = torch.randint(len(latents), (VIDEO_BATCH,), generator=generator)
            clips = latents[index]
            # A reversed clip follows the same rules.
            is_reversed = torch.rand(len(clips), 1, 1, 1, 1, generator=generator) < 0.5
            clips = torch.where(is_reversed, clips.flip(2), clips)
            context = self.embed(self.ids[index], generator)
            return diffusion_loss(clips, generator, lambda x, t: net(x, t, context).sample)

        self.fit("video", net, loss, lr=1.2e-3, average=0.998, slow=set(self.image_unet.state_dict()))
        demo_networks.save_weights("video_unet", net.state_dict())

    def encode_edits(self) -> dict:
        """Latents ``[N, 4, 8, 8]`` of frames before and after a colour change, and the instructions."""
        before, after, captions = [], [], []
        for seed in tqdm(toy_world.TRAIN_SEEDS[:VARIANT_CLIPS], desc="encoding edits"):
            clip = toy_world.training_clip(seed)
            edited = toy_world.recolour(clip, seed)
            pair = torch.cat((clip.frames[::VARIANT_STRIDE], edited.frames[::VARIANT_STRIDE])).movedim(-1, 1)
            for latents, half in zip((before, after), self.encode(pair * 2 - 1).chunk(2), strict=True):
                latents.append(half)
            captions += [edited.caption] * len(before[-1])
        return {"before": torch.cat(before), "after": torch.cat(after), "captions": captions}

    def train_instruct_pix2pix(self) -> None:
        """Train the variant that recolours by instruction (arXiv 2211.09800); its new channels are the frame to edit.

        Text, frame and both are each dropped with probability 1/20, for guidance. A dropped frame is zero in the VAE's
        scale, as in ComfyUI.
        """
        torch.manual_seed(stage_seed("instruct_pix2pix"))
        net = demo_networks.add_input_channels(self.image_unet, channels=4)
        pairs = load_or_compute(self.folder / "edits.pt", self.encode_edits)
        ids, empty = demo_networks.token_ids(pairs["captions"]), demo_networks.token_ids([""])
        no_frame = -(self.scaling["mean"] / self.scaling["std"])[:, None, None]

        def loss(generator: Generator) -> Tensor:
            index = torch.randint(len(ids), (IMAGE_BATCH,), generator=generator)
            dropped = torch.rand(len(index), generator=generator)
            text_ids = torch.where((dropped < 0.1)[:, None], empty, ids[index])
            without_frame = ((dropped > 0.05) & (dropped < 0.15))[:, None, None, None]
            frame = torch.where(without_frame, no_frame, pairs["before"][index])
            context = self.text_encoder(input_ids=text_ids).last_hidden_state
            return diffusion_loss(
                pairs["after"][index], generator, lambda x, t: net(torch.cat((x, frame), dim=1), t, context).sample
            )

        self.fit("instruct_pix2pix", net, loss, lr=2e-3, average=0.99)
        demo_networks.save_weights("instruct_pix2pix", demo_networks.trained_weights(net))

    def encode_masked_frames(self) -> dict[str, Tensor]:
        """Masked frames as in ComfyUI's inpainting: grey under the mask, then encoded; one mask per frame.

        index: of the frame, ``[N]``. masks: ``[N, 1, 8, 8]``, 1 where to inpaint. masked: latents ``[N, 4, 8, 8]``.
        """
        index = torch.arange(0, VARIANT_CLIPS * toy_world.FRAMES, VARIANT_STRIDE)
        masks = random_masks(len(index), Generator().manual_seed(stage_seed("inpaint") - 1))
        batches = tqdm(torch.arange(len(index)).split(ENCODING_BATCH), desc="encoding masked frames")
        masked = [self.encode(self.clips.images(index[batch]) * (1 - masks[batch])) for batch in batches]
        small = F.interpolate(masks, size=self.latents.shape[-2:], mode="bilinear").round()
        return {"index": index, "masks": small, "masked": torch.cat(masked)}

    def train_inpaint(self) -> None:
        """Train the inpainting variant; its new channels are the mask and the masked frame, as in SD's."""
        torch.manual_seed(stage_seed("inpaint"))
        net = demo_networks.add_input_channels(self.image_unet, channels=5)
        examples = load_or_compute(self.folder / "masked_frames.pt", self.encode_masked_frames)

        def loss(generator: Generator) -> Tensor:
            row = torch.randint(len(examples["index"]), (IMAGE_BATCH,), generator=generator)
            index = examples["index"][row]
            context = self.embed_captions(index, generator)
            condition = torch.cat((examples["masks"][row], examples["masked"][row]), dim=1)
            return diffusion_loss(
                self.latents[index], generator, lambda x, t: net(torch.cat((x, condition), dim=1), t, context).sample
            )

        self.fit("inpaint", net, loss, lr=2e-3, average=0.99)
        grey = self.encode(torch.zeros(1, 3, toy_world.SIZE, toy_world.SIZE)).mean(dim=(0, 2, 3))
        demo_networks.save_weights("inpaint", demo_networks.trained_weights(net), {"grey": grey.tolist()})

    def encode_style(self) -> dict[str, Tensor]:
        """First frames of clips in the LoRA's style. index: of the frame, ``[N]``. latents: ``[N, 4, 8, 8]``."""
        index = torch.arange(0, VARIANT_CLIPS * toy_world.FRAMES, toy_world.FRAMES)
        latents = []
        for batch in tqdm(index.split(ENCODING_BATCH), desc="encoding style"):
            latents.append(self.encode(in_ink(self.clips.images(batch))))
        return {"index": index, "latents": torch.cat(latents)}

    def train_lora(self) -> None:
        """Train the LoRA: ink drawings for every caption."""
        torch.manual_seed(stage_seed("lora"))
        net = demo_networks.lora(self.image_unet)
        styled = load_or_compute(self.folder / "style.pt", self.encode_style)

        def loss(generator: Generator) -> Tensor:
            row = torch.randint(len(styled["index"]), (IMAGE_BATCH,), generator=generator)
            context = self.embed_captions(styled["index"][row], generator)
            return diffusion_loss(styled["latents"][row], generator, lambda x, t: net(x, t, context).sample)

        self.fit("lora", net, loss, lr=2e-3, average=0.99)
        demo_networks.save_weights(demo_networks.LORA_NAME, demo_networks.lora_weights(net))

    @torch.no_grad()
    def show_samples(self, stage: str, control: ControlFunction | None = None) -> None:
        """Save DDIM samples of the image model for held-out captions, below control images or the true frames."""
        from diffusers import DDIMScheduler

        clips = [toy_world.training_clip(seed) for seed in toy_world.HELD_OUT_SEEDS[:16]]
        hints = torch.cat([toy_world.canny_hints(clip.frames[:1]) for clip in clips]).movedim(-1, 1)
        ids = demo_networks.token_ids([*(clip.caption for clip in clips), *[""] * len(clips)])
        context = self.text_encoder(input_ids=ids).last_hidden_state
        scheduler = DDIMScheduler(**demo_networks.SCHEDULE)
        scheduler.set_timesteps(25)
        x = torch.randn(len(clips), 4, 8, 8, generator=Generator().manual_seed(0))
        for t in scheduler.timesteps:
            inputs = (torch.cat((x, x)), t.expand(2 * len(x)), context)
            controls = control(*inputs, torch.cat((hints, hints))) if control else {}
            cond, uncond = self.image_unet(*inputs, **controls).sample.chunk(2)
            x = scheduler.step(uncond + 3.0 * (cond - uncond), t, x).prev_sample
        mean, std = (self.scaling[key][:, None, None] for key in ("mean", "std"))
        samples = self.autoencoder.decode(x * std + mean).sample
        top = hints if control else torch.stack([clip.frames[0].movedim(-1, 0) for clip in clips])
        save_picture(self.folder / f"{stage}.png", [top[:8] * 2 - 1, samples[:8], top[8:] * 2 - 1, samples[8:]])


def main() -> None:
    """Run every stage that is not finished yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("output/demo-training"), help="folder for checkpoints")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    DemoTraining(parser.parse_args().run).run()


if __name__ == "__main__":
    main()
