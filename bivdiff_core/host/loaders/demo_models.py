"""The demo models as ComfyUI objects: an image MODEL, a video MODEL, a CLIP, a VAE and a CONTROL_NET.

ComfyUI's loaders support only the published sizes of these architectures, so the models are built here. ComfyUI chooses
device, precision and offloading.
"""

from typing import Any

import comfy.cldm.cldm
import comfy.clip_model
import comfy.controlnet
import comfy.model_base
import comfy.model_management as mm
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.t2i_adapter.adapter
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...demo import models
from ...node_warnings import warn
from ..comfy_types import Model
from .demo_latents import DemoLatents
from .model_builder import build_model, choose_precision
from .network_configs import to_comfy_unet_config, to_comfy_vae_config
from .video_unet import VideoModelConfig

MEMORY_USAGE_FACTOR = 0.1
"""For ComfyUI's estimate of the memory that a model call needs; Stable Diffusion has 1."""

COMFY_UNET_CONFIG = to_comfy_unet_config(models.IMAGE_UNET_CONFIG) | {"num_head_channels": models.HEAD_WIDTH}
"""The image UNet as configuration of ComfyUI's UNetModel; the ControlNet is its encoder."""


class DemoImageModel(comfy.supported_models_base.BASE):
    """The image UNet: eps prediction on Stable Diffusion's schedule, which are ComfyUI's defaults."""

    unet_extra_config: dict = {}
    latent_format = DemoLatents
    memory_usage_factor = MEMORY_USAGE_FACTOR

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename diffusers' keys to ComfyUI's."""
        names = comfy.utils.unet_to_diffusers(self.unet_config)
        return {names[key]: tensor for key, tensor in state_dict.items()}


class _DemoEditNetwork(comfy.model_base.IP2P, comfy.model_base.BaseModel):
    def process_ip2p_image_in(self, image: Tensor) -> Tensor:
        return self.process_latent_in(image)


class DemoEditModel(DemoImageModel):
    """The image UNet for editing; InstructPixToPixConditioning provides the frame to edit."""

    def get_model(
        self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> comfy.model_base.BaseModel:
        return _DemoEditNetwork(self, device=device)


class DemoInpaintModel(DemoImageModel):
    """The image UNet for inpainting; InpaintModelConditioning provides the mask and the masked frame."""

    def get_model(
        self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> comfy.model_base.BaseModel:
        model = super().get_model(state_dict, prefix, device)
        grey = models.read_latent_scaling("inpaint")["grey"].view(1, 4, 1, 1)
        model.blank_inpaint_image_like = lambda latent: grey.to(latent).expand_as(latent)
        return model


IMAGE_VARIANTS = {
    "base": (DemoImageModel, 0),
    "instruct_pix2pix": (DemoEditModel, 4),
    "inpaint": (DemoInpaintModel, 5),
    "t2i_adapter": (DemoImageModel, 0),
}
"""Configuration class and number of additional input channels of each image MODEL."""


class DemoVideoModel(VideoModelConfig):
    """The video UNet, with the same latent format."""

    latent_format = DemoLatents
    memory_usage_factor = MEMORY_USAGE_FACTOR


class DemoTokenizer(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's prompt syntax with the toy vocabulary."""

    def __init__(self, embedding_directory: list[str] | None = None, tokenizer_data: dict | None = None):
        super().__init__(
            max_length=models.CONTEXT_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=models.CONTEXT_DIM,
            embedding_key="clip_demo",
            tokenizer_class=models.WordTokenizer,
        )


class DemoPromptTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The tokenizer that CLIPTextEncode uses."""

    def __init__(self, embedding_directory: list[str] | None = None, tokenizer_data: dict | None = None):
        super().__init__(embedding_directory, clip_name="demo", tokenizer=DemoTokenizer)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, list]:
        """Tokenize a prompt, and warn about words that the models do not know."""
        if unknown := models.find_unknown_words(text):
            _warn_on_running_node(
                f"The demo models skip words that they do not know: {', '.join(unknown)}. "
                f"They know: {', '.join(models.VOCABULARY)}."
            )
        return super().tokenize_with_weights(text, return_word_ids, **kwargs)


def _warn_on_running_node(message: str) -> None:
    """Warn on the node that encodes a prompt, usually one of ComfyUI's: js/warnings.js shows the event."""
    warn(message)
    if context := get_executing_context():
        from server import PromptServer  # only a server has running nodes

        server = PromptServer.instance
        server.send_sync("bivdiff.warning", {"node": context.node_id, "text": message}, server.client_id)


class DemoTextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text model with the toy vocabulary instead of CLIP's."""

    def __init__(
        self,
        config_dict: dict,
        dtype: torch.dtype | None,
        device: torch.device | str,
        operations: type[comfy.ops.disable_weight_init],
    ):
        super().__init__(config_dict, dtype, device, operations)
        self.text_model.embeddings = comfy.clip_model.CLIPEmbeddings(
            config_dict["hidden_size"],
            vocab_size=config_dict["vocab_size"],
            num_positions=config_dict["max_position_embeddings"],
            dtype=dtype,
            device=device,
            operations=operations,
        )
        # The demo text encoder has no projection, like that of SD 1.5. ComfyUI expects one for the pooled output.
        self.text_projection = torch.nn.Identity()


class DemoClipModel(comfy.sd1_clip.SDClipModel):
    """The text encoder's transformer with ComfyUI's prompt weighting."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict | None = None,
    ):
        vocabulary = models.WordTokenizer().get_vocab()
        start, end = vocabulary[models.WordTokenizer.START], vocabulary[models.WordTokenizer.END]
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=models.CONTEXT_LENGTH,
            textmodel_json_config={"vocab_size": len(vocabulary), "eos_token_id": end, **models.TEXT_ENCODER_CONFIG},
            model_class=DemoTextModel,
            special_tokens={"start": start, "end": end, "pad": end},
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class DemoTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The text encoder that CLIPTextEncode uses."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: dict | None = None,
    ):
        super().__init__(device, dtype, model_options or {}, clip_name="demo", clip_model=DemoClipModel)


def load_image_model(variant: str = "base", disable_dynamic: bool = False) -> Model:
    """Load an image MODEL; `variant` is a key of `IMAGE_VARIANTS`."""
    config_class, channels = IMAGE_VARIANTS[variant]
    weights = models.load_variant(variant) if channels else models.load_weights("image_unet")
    config = config_class(COMFY_UNET_CONFIG | {"in_channels": 4 + channels})
    return build_model(config, weights, load_image_model, (variant,), disable_dynamic)


def load_video_model(disable_dynamic: bool = False) -> Model:
    """Load the video MODEL. Its latents hold a clip's frames as the batch, ``[F, 4, 8, 8]``."""
    weights = models.load_weights("video_unet")
    return build_model(DemoVideoModel(models.VIDEO_UNET_CONFIG), weights, load_video_model, (), disable_dynamic)


def load_clip(disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Load the CLIP. It knows the toy world's words and skips all others."""
    weights = {f"text_model.{key}": tensor for key, tensor in models.load_weights("text_encoder").items()}
    target = comfy.supported_models_base.ClipTarget(DemoPromptTokenizer, DemoTextEncoder)
    parameters = comfy.utils.calculate_parameters(weights)
    clip = comfy.sd.CLIP(target, parameters=parameters, state_dict=[weights], disable_dynamic=disable_dynamic)
    clip.patcher.cached_patcher_init = (_load_clip_patcher, ())
    return clip


def _load_clip_patcher(disable_dynamic: bool = False) -> Model:
    return load_clip(disable_dynamic).patcher


def load_vae() -> comfy.sd.VAE:
    """Load the VAE: downscales by 8, 4 latent channels."""
    weights = {key: _duplicate_channels(tensor) for key, tensor in models.load_weights("autoencoder").items()}
    narrow, *widths = models.AUTOENCODER_CONFIG["block_out_channels"]
    config = models.AUTOENCODER_CONFIG | {"block_out_channels": (2 * narrow, *widths)}
    vae = comfy.sd.VAE(sd=weights, config={"params": to_comfy_vae_config(config)})
    net = vae.first_stage_model
    for layer in net.modules():
        if isinstance(layer, torch.nn.GroupNorm):  # ComfyUI's VAE always uses 32 groups
            layer.num_groups = models.AUTOENCODER_GROUPS
    # With duplicated channels, two blocks have equal input and output widths, so ComfyUI built them without a shortcut.
    for name, block in (
        ("encoder.down_blocks.1.resnets.0", net.encoder.down[1].block[0]),
        ("decoder.up_blocks.3.resnets.0", net.decoder.up[0].block[0]),
    ):
        block.in_channels //= 2
        block.nin_shortcut = type(block.conv1)(block.out_channels, block.out_channels, 1).to(block.conv1.weight)
        block.nin_shortcut.load_state_dict({k: weights[f"{name}.conv_shortcut.{k}"] for k in ("weight", "bias")})
    vae.patcher.cached_patcher_init = (_load_vae_patcher, ())
    return vae


def _duplicate_channels(weight: Tensor) -> Tensor:
    """Duplicate each of the autoencoder's narrowest channels in a weight; the result stays the same.

    ComfyUI's VAE supports only widths divisible by 32.
    """
    narrow = models.AUTOENCODER_CONFIG["block_out_channels"][0]
    if weight.ndim > 1 and weight.shape[1] == narrow:
        weight = weight.repeat_interleave(2, dim=1) / 2
    return weight.repeat_interleave(2, dim=0) if weight.shape[0] == narrow else weight


def _load_vae_patcher(disable_dynamic: bool = False) -> Model:
    return load_vae().patcher  # disable_dynamic has no effect, as in ComfyUI's load_vae_patcher


def load_control_net() -> comfy.controlnet.ControlNet:
    """Load the CONTROL_NET, for images of ComfyUI's Canny node with low_threshold 0.3 and high_threshold 0.6."""
    weights = {_to_comfy_control_key(key): tensor for key, tensor in models.load_weights("control_net").items()}
    dtype, manual_cast = choose_precision(weights, DemoImageModel.supported_inference_dtypes)
    net = comfy.cldm.cldm.ControlNet(
        **{key: value for key, value in COMFY_UNET_CONFIG.items() if key != "out_channels"},
        hint_channels=3,
        dtype=dtype,
        device=mm.unet_offload_device(),
        operations=comfy.ops.pick_operations(dtype, manual_cast),
    )
    net.load_state_dict(weights)
    return comfy.controlnet.ControlNet(net, load_device=mm.get_torch_device(), manual_cast_dtype=manual_cast)


class DemoAdapter(comfy.t2i_adapter.adapter.Adapter):
    """ComfyUI's T2I-Adapter for a UNet with one block per level; SD has two."""

    def forward(self, x: Tensor) -> dict[str, list[Tensor | None]]:
        features = [feature for feature in super().forward(x)["input"] if feature is not None]  # last level first
        return {"input": [entry for feature in features for entry in (feature, None)]}


def load_t2i_adapter() -> comfy.controlnet.T2IAdapter:
    """Load a T2I-Adapter for the same images as the ControlNet. ComfyUI's loader supports only the published widths."""
    settings = models.T2I_ADAPTER_CONFIG
    blocks = settings["num_res_blocks"]
    names = {
        f"adapter.body.{level}.resnets.{block}.": f"body.{level * blocks + block}."
        for level in range(len(settings["channels"]))
        for block in range(blocks)
    }
    weights = comfy.utils.state_dict_prefix_replace(models.load_weights("t2i_adapter"), names | {"adapter.": ""})
    input_channels = settings["in_channels"] * settings["downscale_factor"] ** 2
    net = DemoAdapter(list(settings["channels"]), blocks, input_channels, ksize=1, sk=True, use_conv=False, xl=False)
    net.load_state_dict(weights)
    return comfy.controlnet.T2IAdapter(net, net.input_channels, settings["downscale_factor"], "nearest-exact")


def _to_comfy_control_key(key: str) -> str:
    """Convert a state dict key of diffusers' ControlNetModel to ComfyUI's."""
    shared = comfy.utils.unet_to_diffusers(COMFY_UNET_CONFIG)
    if key in shared:
        return shared[key]
    layer, kind = key.rsplit(".", 1)
    if layer == "controlnet_mid_block":
        return f"middle_block_out.0.{kind}"
    block, _, number = layer.rpartition(".")
    if block == "controlnet_down_blocks":
        return f"zero_convs.{number}.0.{kind}"
    # The hint's convolutions have even positions, with activations between them.
    convolution = {"conv_in": 0, "conv_out": 7}[number] if not number.isdigit() else int(number) + 1
    return f"input_hint_block.{2 * convolution}.{kind}"
