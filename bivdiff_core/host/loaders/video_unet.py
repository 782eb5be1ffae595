"""diffusers' UNet3DConditionModel (ModelScope, ZeroScope, the demo video model) as a ComfyUI MODEL.

ComfyUI passes frames as a batch, `[B * F, C, H, W]`; the UNet expects clips, `[B, C, F, H, W]`.
"""

from typing import Any

import comfy.model_base
import comfy.ops
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ..compat.comfyui_internals import use_comfy_layers
from ..errors import BIVDiffError
from .patched_attention import patch_attention


def import_unet_3d() -> Any:
    """diffusers' class UNet3DConditionModel.

    Raises:
        BIVDiffError: diffusers, or a package that it imports, is missing or broken.
    """
    try:
        from diffusers import UNet3DConditionModel
    except (ImportError, RuntimeError) as error:  # RuntimeError: diffusers reports the errors of optional packages so
        raise BIVDiffError(
            "the package diffusers, which video models need, cannot be imported: it or a package that it uses is "
            "missing or broken. ComfyUI's log shows which. Update that package, or uninstall it if nothing needs it, "
            f"and restart ComfyUI. The error is: {error}"
        ) from error
    return UNet3DConditionModel


class VideoUNet(torch.nn.Module):
    """A UNet3DConditionModel with the interface of ComfyUI's diffusion_model.

    Its layers are turned into ComfyUI's layers after construction, so they can be cast, offloaded and interrupted like
    those of core models.

    Args:
        operations: ComfyUI's layer classes (`comfy.ops.pick_operations`).
        dtype: of the weights.
        device: of the weights.
        model_channels: not used; other nodes read it from the configuration.
        unet_config: UNet3DConditionModel's configuration.
    """

    def __init__(
        self,
        *,
        operations: type[comfy.ops.disable_weight_init],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        model_channels: int | None = None,
        **unet_config: Any,
    ):
        super().__init__()

        class UNet3D(import_unet_3d()):  # type: ignore[misc]
            # diffusers casts the timestep embedding to the weights' dtype. With manual cast the compute dtype differs;
            # it is set before every call.
            dtype = torch.float32

        with torch.device("meta"):  # all weights come from the file: skip random initialisation in fp32
            self.unet = UNet3D(**unet_config)
        # ModelMixin.to would warn about layers to keep in fp32; there are none.
        torch.nn.Module.to(self.unet, dtype).to_empty(device=device or "cpu")
        self.dtype = dtype
        use_comfy_layers(self.unet, operations)
        self.options: dict = {}
        patch_attention(self.unet, self.options)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Call `predict` inside the wrappers of other nodes, as ComfyUI's UNet does."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self.predict, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, transformer_options, **inputs)

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        **_: Any,
    ) -> Tensor:
        """Predict eps of whole clips.

        Args:
            x: `[B * F, C, H, W]`, where B is the number of conds that ComfyUI batched in this call.
            timesteps: `[B * F]`, equal within a clip.
            context: text, `[B * F, L, D]`; only the first frame's text of each clip is used.
        """
        clips = len(transformer_options["cond_or_uncond"])
        frames = x.shape[0] // clips
        self.unet.dtype = x.dtype
        self.options.clear()
        self.options.update(transformer_options, original_shape=list(x.shape))
        out = self.unet(
            x.unflatten(0, (clips, frames)).transpose(1, 2),
            timesteps[::frames],
            context[::frames],
            return_dict=False,
        )[0]
        return out.transpose(1, 2).flatten(0, 1)


class VideoModel(comfy.model_base.BaseModel):
    """ComfyUI's sampling model with a VideoUNet."""


class VideoModelConfig(comfy.supported_models_base.BASE):
    """A ComfyUI model configuration with UNet3DConditionModel's configuration and Stable Diffusion's schedule."""

    unet_extra_config: dict = {}

    def __init__(self, unet_config: dict):
        super().__init__({**unet_config, "model_channels": unet_config["block_out_channels"][0]})

    def get_model(
        self, state_dict: dict[str, Tensor], prefix: str = "", device: torch.device | None = None
    ) -> VideoModel:
        return VideoModel(self, self.model_type(state_dict, prefix), device=device, unet_model=VideoUNet)

    def process_unet_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the prefix of `VideoUNet.unet` to diffusers' keys."""
        return {f"unet.{key}": tensor for key, tensor in state_dict.items()}
