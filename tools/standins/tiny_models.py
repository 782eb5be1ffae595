"""Real host objects with random weights, of the architectures that artists use, small enough for a CPU in milliseconds.

Random networks are neither contractive nor near a denoiser, so nothing averages an error away. Every weight is random:
the zero-initialised layers of a fresh UNet, ControlNet or adapter would hide what goes into them. UNets and what
controls them compute in float64, so that rounding, which differs with the processor, its load and the batch, is lost
when their results become float32. The host's transformers cannot: they stay in float32.
"""

import inspect
import json
from pathlib import Path

import comfy.cldm.cldm
import comfy.context_windows
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.t2i_adapter.adapter
import comfy.utils
import pytest
import safetensors.torch
import torch
from comfy.model_base import ModelType
from comfy.patcher_extension import PatcherInjection
from torch import Tensor

# What older hosts lack, told by its names.
needs_multigpu = pytest.mark.skipif(
    not hasattr(comfy.model_patcher.ModelPatcher, "deepclone_multigpu"), reason="this ComfyUI keeps to one GPU"
)
HAS_ANCHOR = "causal_window_fix" in inspect.signature(comfy.context_windows.IndexListContextHandler).parameters
NO_ANCHOR = {"causal_window_fix": False} if HAS_ANCHOR else {}
"""For the host's context windows: no frame before each."""

CPU = torch.device("cpu")
TEXT_WIDTH = 32
SD_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": TEXT_WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
UNET_3D = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 16,
}
VIDRD = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "patch_size": (1, 2, 2),
    "dim": 48,
    "ffn_dim": 64,
    "freq_dim": 64,
    "text_dim": TEXT_WIDTH,
    "in_dim": 16,
    "out_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "text_len": 512,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
LTX = {
    "image_model": "ltxv",
    "in_channels": 128,
    "cross_attention_dim": 48,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "caption_channels": TEXT_WIDTH,
    "num_layers": 2,
}
DOUBLE_STREAM = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": TEXT_WIDTH,
    "context_in_dim": TEXT_WIDTH,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "qkv_bias": True,
    "guidance_embed": True,
}
"""What HunyuanVideo's transformer and Flux's have in common, made small."""
HUNYUAN = {
    **DOUBLE_STREAM,
    "image_model": "hunyuan_video",
    "patch_size": [1, 2, 2],
    "theta": 256,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
WAN_VAE = {
    "dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}
PICTURE_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}

FLUX = {
    **DOUBLE_STREAM,
    "image_model": "flux",
    "patch_size": 2,
    "theta": 10000,
    "txt_ids_dims": [],
}


def randomize(module: torch.nn.Module, seed: int, gain: float = 1.0) -> torch.nn.Module:
    """Weights of size gain / sqrt(fan_in), norms near 1, so that signals keep their size through any depth.

    Convolutions without norms between them need a gain of 2, or their activations shrink what goes through to nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_((1 if name.endswith("weight") else 0) + 0.1 * noise)
    return module.requires_grad_(False).eval()


def _precision(config: comfy.supported_models_base.BASE) -> tuple[torch.dtype, torch.dtype | None]:
    """In what the host stores the weights and, where that is another, computes; float32 on a CPU without flags."""
    host, supported = comfy.model_management, config.supported_inference_dtypes
    stored = host.unet_dtype(supported_dtypes=supported)
    return stored, host.unet_manual_cast(stored, host.get_torch_device(), supported)


def _patcher(model: comfy.model_base.BaseModel, seed: int) -> comfy.model_patcher.ModelPatcher:
    randomize(model, seed)
    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=load, offload_device=offload)


class TinySD(comfy.supported_models.SD15):
    """Stable Diffusion 1.5 but for its size."""

    unet_config: dict = {}
    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    memory_usage_factor = 0.1
    prediction = ModelType.EPS

    def model_type(self, state_dict, prefix=""):
        return self.prediction


class TinySDVelocity(TinySD):
    """The same with v prediction, as Stable Diffusion 2.1 has it."""

    prediction = ModelType.V_PREDICTION


class AnimateDiffSchedule(TinySD):
    """The same with AnimateDiff's betas, plain linear, whose sigma_max is 25.1 instead of 14.6."""

    sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 0.00085, "linear_end": 0.012}


class TinySDFlow(TinySD):
    """The same as a rectified-flow model."""

    prediction = ModelType.FLOW
    sampling_settings = {"shift": 3.0}


def sd_model(
    config=TinySD, seed: int = 0, stored: torch.dtype = torch.float64, **unet
) -> comfy.model_patcher.ModelPatcher:
    """An image MODEL; more input channels make it an inpainting (9) or InstructPix2Pix (8) model.

    Args:
        stored: of the weights; other than float64 they are cast in every layer.
    """
    made = config({**SD_UNET, **unet})
    made.set_inference_dtype(stored, None if stored == torch.float64 else torch.float64)
    if made.unet_config["in_channels"] == 8:
        return _patcher(comfy.model_base.SD15_instructpix2pix(made, device=CPU), seed)
    return _patcher(made.get_model({}, "", device=CPU), seed)


def control_net(seed: int = 1, concat_mask: bool = False) -> comfy.controlnet.ControlNet:
    """A CONTROL_NET for `sd_model`; with `concat_mask` one for inpainting, whose hints have a mask beside them."""
    config = {k: v for k, v in {**SD_UNET, **TinySD.unet_extra_config}.items() if k != "out_channels"}
    operations = comfy.ops.pick_operations(torch.float64, None)
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3 + concat_mask, dtype=torch.float64, device=CPU, operations=operations
    )
    randomize(network, seed)
    randomize(network.input_hint_block, seed, gain=2)
    return comfy.controlnet.ControlNet(network, load_device=CPU, concat_mask=concat_mask)


def t2i_adapter(seed: int = 2) -> comfy.controlnet.T2IAdapter:
    """A T2I-Adapter as a CONTROL_NET for `sd_model`, whose every level has one block instead of two."""
    network = randomize(comfy.t2i_adapter.adapter.Adapter_light(channels=[32, 32], nums_rb=1, cin=64 * 3), seed)

    class TwoLevels(torch.nn.Module):
        unshuffle_amount = network.unshuffle_amount

        def __init__(self):
            super().__init__()
            self.adapter = network

        def forward(self, hint: Tensor) -> dict[str, list[Tensor | None]]:
            features = self.adapter.double()(hint.double())["input"]  # the host makes it float32 before each call
            fine, coarse = (f.to(hint) for f in features[::-1] if f is not None)
            return {"input": [coarse, None, fine, None]}  # taken from the end, one for every block of the UNet

    return comfy.controlnet.T2IAdapter(TwoLevels(), 3, 8, "nearest-exact", device=CPU)


def video_model(pack, seed: int = 3, stored: torch.dtype = torch.float64) -> comfy.model_patcher.ModelPatcher:
    """A UNet3DConditionModel as the pack wraps it, that computes in float64 whatever its weights are stored as."""
    wrapped = pack.import_module("bivdiff_core.host.loaders.video_unet")

    class TinyVideo(wrapped.VideoModelConfig):
        latent_format = comfy.latent_formats.SD15
        memory_usage_factor = 0.1

    config = TinyVideo(UNET_3D)
    config.set_inference_dtype(stored, torch.float64)
    return _patcher(config.get_model({}, "", device=CPU), seed)


def vidrd_model(pack, seed: int = 3) -> comfy.model_patcher.ModelPatcher:
    """VidRD, the host's UNet of Stable Diffusion 2 with layers along time."""
    config = pack.import_module("bivdiff_core.host.loaders.vidrd").VidRDConfig(VIDRD)
    stored, computed = _precision(config)
    config.set_inference_dtype(torch.float64 if stored == torch.float32 else stored, computed)
    return _patcher(config.get_model({}, "", device=CPU), seed)


def seeing_together(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """An image MODEL that passes for a video model: a motion module of a pack that nobody knows, of strength 0."""
    model = model.clone()
    model.set_injections("motion", [PatcherInjection(lambda patcher: None, lambda patcher: None)])
    return model


def wan_model(seed: int = 4, **config) -> comfy.model_patcher.ModelPatcher:
    """Wan 2.1, a flow model with 5-D latents of 16 channels."""
    return _flow_model(comfy.supported_models.WAN21_T2V, {**WAN, **config}, seed, "time_embedding.0")


def write_wan(models: Path, unet: str, vae: str, **config) -> None:
    """`wan_model` and `wan_vae` as files for core's loaders, in their folders below `models`.

    Core takes from a file's metadata what the shapes of its weights do not tell.
    """
    network = wan_model(**config).model.diffusion_model.state_dict()
    (models / "diffusion_models").mkdir(parents=True, exist_ok=True)
    metadata = {"config": json.dumps({"transformer": {**WAN, **config}})}
    safetensors.torch.save_file(network, models / "diffusion_models" / f"{unet}.safetensors", metadata)
    (models / "vae").mkdir(exist_ok=True)
    safetensors.torch.save_file(wan_vae().first_stage_model.state_dict(), models / "vae" / f"{vae}.safetensors")


def ltx_model(seed: int = 4, **config) -> comfy.model_patcher.ModelPatcher:
    """LTX-Video, a flow model with 5-D latents of 128 channels; its text comes with an attention_mask."""
    time_layer = "adaln_single.emb.timestep_embedder.linear_1"
    return _flow_model(comfy.supported_models.LTXV, {**LTX, **config}, seed, time_layer)


def hunyuan_model(seed: int = 4, **config) -> comfy.model_patcher.ModelPatcher:
    """HunyuanVideo, a flow model with 5-D latents of 16 channels; its text comes with a pooled one."""
    time_layers = "time_in.in_layer", "txt_in.t_embedder.in_layer"
    return _flow_model(comfy.supported_models.HunyuanVideo, {**HUNYUAN, **config}, seed, *time_layers)


def _flow_model(kind, network: dict, seed: int, *time_layers: str) -> comfy.model_patcher.ModelPatcher:
    """A MODEL deaf to the fast half of its time embedding: like trained ones it changes slowly with the noise."""
    config = kind(network)
    config.set_inference_dtype(*_precision(config))
    patcher = _patcher(config.get_model({}, "", device=CPU), seed)
    for name in time_layers:
        layer = patcher.model.diffusion_model.get_submodule(name)
        by_speed = layer.weight.unflatten(1, (2, -1))  # cosines and sines, each from fast to slow
        by_speed[:, :, : by_speed.shape[2] // 2] = 0
    return patcher


class FlowVideo:
    """One of the `KINDS` of flow models with 5-D latents, and all that goes with it."""

    KINDS = {"wan": (wan_model, 16), "ltx": (ltx_model, 128), "hunyuan": (hunyuan_model, 16)}
    """How to make it, and the channels of its latents."""

    def __init__(self, kind: str):
        make, self.channels = self.KINDS[kind]
        self.kind = kind
        self.model = make()

    def text(self, *shape: int, seed: int = 1, **extra) -> list:
        """CONDITIONING as this model's own text encoder gives it, at guidance 1."""
        beside = {
            "wan": {},
            "ltx": {"attention_mask": torch.ones(1, 7, dtype=torch.long)},
            "hunyuan": {"guidance": 1.0},
        }
        extra = {**beside[self.kind], **extra}
        if self.kind == "hunyuan":
            pooled = torch.randn(1, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
            extra.setdefault("pooled_output", pooled)
        return text(*shape, seed=seed, **extra)

    def latent(self, length: int = 3, **extra) -> dict:
        """A clean clip in the VAE's space, `[1, C, T, H, W]`."""
        return {**frames(1, self.channels, length, 8, 8), **extra}


def wan_vae(seed: int = 7) -> comfy.sd.VAE:
    """Wan 2.1's VAE, which packs 4 frames in a latent of 1/8 their size."""
    network = comfy.ldm.wan.vae.WanVAE(**WAN_VAE)
    return comfy.sd.VAE(sd=randomize(network, seed).state_dict())


def picture_vae(seed: int = 7) -> comfy.sd.VAE:
    """A VAE like Stable Diffusion's, which knows no time."""
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=PICTURE_VAE, embed_dim=4)
    config = {"params": {"ddconfig": PICTURE_VAE, "embed_dim": 4}}
    return comfy.sd.VAE(sd=randomize(network, seed).state_dict(), config=config)


def flux_model(seed: int = 4, **config) -> comfy.model_patcher.ModelPatcher:
    """Flux.1, a flow model of frames; with reference latents it is Kontext."""

    class TinyFlux(comfy.supported_models.Flux):
        memory_usage_factor = 0.1

    made = TinyFlux({**FLUX, **config})
    made.set_inference_dtype(torch.float32, None)
    return _patcher(made.get_model({}, "", device=CPU), seed)


class TinySDXL(comfy.supported_models.SDXL):
    """Stable Diffusion XL but for its size: it also takes pooled text."""

    unet_config: dict = {}
    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    memory_usage_factor = 0.1


class ExactNetwork(torch.nn.Module):
    """The network that a perfect training would give: exact for data of a known distribution.

    Like any network it sees the scaled input and a timestep, and answers with eps, v or velocity as its kind does.
    """

    dtype = torch.float32

    def __init__(self, dtype=None, device=None, operations=None, **_):
        super().__init__()

    def forward(self, x: Tensor, timesteps: Tensor, context=None, **_) -> Tensor:
        t = timesteps.view(-1, 1, 1, 1)
        if self.kind == ModelType.FLOW:
            sigma = t / 1000
            return (x - self.mixture.posterior_mean(x, 1 - sigma.flatten(), sigma.flatten())) / sigma
        sigma = self.sigmas[t.long()]
        alpha, beta = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()  # x = alpha * x0 + beta * eps
        x0 = self.mixture.posterior_mean(x, alpha.flatten(), beta.flatten())
        eps = (x - alpha * x0) / beta
        return eps if self.kind == ModelType.EPS else alpha * eps - beta * x0


def exact_model(config: type[TinySD], mixture) -> comfy.model_patcher.ModelPatcher:
    """A MODEL that knows the distribution of its latents, `mixture` (see analytic.GaussianMixture)."""
    made = config({})
    made.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(made, config.prediction, device=CPU, unet_model=ExactNetwork)
    network = model.diffusion_model
    network.mixture, network.kind = mixture, config.prediction
    network.sigmas = model.model_sampling.sigmas.clone()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=CPU, offload_device=CPU)


def text(*shape: int, seed: int = 5, **extra) -> list:
    """CONDITIONING with random text, `[1 or F, L, D]`."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(*(shape or (1, 7, TEXT_WIDTH)), generator=generator), extra]]


def frames(*shape: int, seed: int = 6) -> dict:
    """A clean LATENT in the VAE's space, smooth enough in space to pass for encoded frames."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    flat = noise.flatten(0, -4)
    kernel = torch.ones(noise.shape[-3], 1, 3, 3) / 9
    padded = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode="circular")
    smooth = torch.nn.functional.conv2d(padded, kernel, groups=noise.shape[-3]) if noise.ndim == 4 else noise
    return {"samples": smooth.reshape(shape) / smooth.std() / 0.18215}


def inverted(pack, samples: Tensor, **told) -> dict:
    """A LATENT of these samples that says of itself that it was inverted, to full noise and by a video model."""
    module = pack.import_module("bivdiff_core.host.inverted")
    full = {"sigma": 13.12, "at_sigma_max": False, "strength": 1.0, "grid": "matched", "branch": "video"}
    inversion = module.Inversion(**{**full, "latent_format": "SD15", "family": "diffusion", **told})
    return module.inverted_latent({}, samples, inversion)


class Calls:
    """Counts a MODEL's calls and the rows of each, and can fail one of them."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None):
        self.rows: list[int] = []
        self.sigmas: list[float] = []
        self.fail_at = fail_at
        self.error = error

    def on(self, model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
        model = model.clone()
        model.set_model_unet_function_wrapper(self)
        return model

    def __call__(self, apply_model, args: dict) -> Tensor:
        self.rows.append(args["input"].shape[0])
        self.sigmas.append(args["timestep"][0].item())
        if len(self.rows) == self.fail_at:
            raise self.error
        return apply_model(args["input"], args["timestep"], **args["c"])


def same_weights_made_again(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the host can make it again: for another device (MultiGPU CFG Split), and for itself alone (training)."""

    def weights(of: comfy.model_patcher.ModelPatcher) -> dict[str, Tensor]:
        # The host's text models have a projection that CLIP of Stable Diffusion 2 does without: it holds anything.
        return {key: weight for key, weight in of.model_state_dict().items() if "text_projection" not in key}

    given = weights(patcher)
    for make in (lambda: patcher.deepclone_multigpu(CPU), lambda: patcher.clone(force_deepcopy=True)):
        copy = make()
        made = weights(copy)
        if copy.model is patcher.model or made.keys() != given.keys():
            return False
        if not all(torch.equal(weight, given[key]) for key, weight in made.items()):
            return False
    return True


def diffusers_unet(model):
    """diffusers' UNet with an `sd_model`'s weights."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
    )
    weights = model.model.diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    unet.load_state_dict({name: weights[names[name]] for name in unet.state_dict()})
    return unet.double()


KINDS = {"eps": TinySD, "v": TinySDVelocity, "flow": TinySDFlow}


def image_eps(model, conditioning: list):
    """The host's network, called by hand: no sampler, no guider, no sigma."""

    def eps(z: Tensor, t: int) -> Tensor:
        context = conditioning[0][0].expand(len(z), -1, -1)
        network = model.model.diffusion_model
        t = torch.full((len(z),), float(t))
        return network(z.double(), t, context=context.double(), transformer_options={}).to(z.dtype)

    return eps
