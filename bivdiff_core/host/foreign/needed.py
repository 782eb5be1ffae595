"""Everything that the pack takes from ComfyUI by name, looked up once, before any node is made.

A test holds the table to what the source uses; ComfyUI's number is never asked.
"""

from pkgutil import resolve_name

NEEDED = {
    "comfy.cldm.cldm": "ControlNet",
    "comfy.cli_args": "args",
    "comfy.clip_model": "ACTIVATIONS CLIPEmbeddings CLIPTextModel",
    "comfy.conds": "CONDList",
    "comfy.context_windows": "ContextFuseMethods ContextSchedule ContextSchedules IndexListCallbacks "
    "IndexListContextHandler IndexListContextWindow create_prepare_sampling_wrapper get_matching_context_schedule "
    "get_matching_fuse_method",
    "comfy.controlnet": "ControlNet T2IAdapter",
    "comfy.diffusers_convert": "convert_vae_state_dict",
    "comfy.hooks": "EnumHookType HookGroup HookKeyframeGroup",
    "comfy.latent_formats": "LatentFormat SD15",
    "comfy.ldm.hunyuan_video.model": "HunyuanVideo",
    "comfy.ldm.models.autoencoder": "AutoencoderKL",
    "comfy.ldm.modules.attention": "BasicTransformerBlock CrossAttention optimized_attention",
    "comfy.ldm.modules.diffusionmodules.openaimodel": "ResBlock UNetModel",
    "comfy.model_base": "BaseModel HunyuanVideo IP2P LTXV ModelType SVD_img2vid WAN21",
    "comfy.model_management": "current_loaded_models get_free_memory get_torch_device intermediate_device "
    "intermediate_dtype is_oom raise_non_oom soft_empty_cache throw_exception_if_processing_interrupted unet_dtype "
    "unet_manual_cast unet_offload_device",
    "comfy.model_patcher": "CoreModelPatcher ModelPatcher create_model_options_clone",
    "comfy.model_sampling": "CONST EPS IMG_TO_IMG IMG_TO_IMG_FLOW ModelSamplingDiscrete V_PREDICTION X0",
    "comfy.ops": "disable_weight_init pick_operations",
    "comfy.patcher_extension": "PatcherInjection WrapperExecutor WrappersMP add_callback_with_key copy_nested_dicts "
    "get_all_wrappers",
    "comfy.sample": "fix_empty_latent_channels prepare_noise",
    "comfy.sampler_helpers": "estimate_memory get_additional_models",
    "comfy.samplers": "CFGGuider KSampler KSamplerX0Inpaint SAMPLER_NAMES SCHEDULER_NAMES Sampler calculate_sigmas "
    "sampler_object",
    "comfy.sd": "CLIP VAE",
    "comfy.sd1_clip": "SD1ClipModel SD1Tokenizer SDClipModel SDTokenizer",
    "comfy.supported_models": "SD20",
    "comfy.supported_models_base": "BASE ClipTarget",
    "comfy.t2i_adapter.adapter": "Adapter",
    "comfy.text_encoders.sd2_clip": "SD2Tokenizer",
    "comfy.utils": "PROGRESS_BAR_ENABLED ProgressBar calculate_parameters clip_text_transformers_convert "
    "load_torch_file save_torch_file state_dict_prefix_replace unet_to_diffusers weight_dtype",
    "comfy_api.latest": "ComfyExtension InputImpl Types io ui",
    "comfy_api.latest.io": "Audio Boolean Clip ClipVision Combo ComfyNode Conditioning ControlNet Float Guider Hidden "
    "Image Input Int Latent Model MultiType NodeOutput Noise Schema String Vae "
    "Video",
    "comfy_api.latest.ui": "PreviewImage",
    "folder_paths": "exists_annotated_filepath get_annotated_filepath get_folder_paths get_input_directory "
    "get_output_directory get_save_image_path",
    "latent_preview": "get_previewer",
}
"""Names by the module that has them."""


def missing_names() -> list[str]:
    """The names that this ComfyUI does not have, in full."""
    return [name for module, names in NEEDED.items() for name in _missing(module, names.split())]


def _missing(module: str, names: list[str]) -> list[str]:
    try:
        owner = resolve_name(module)
    except (ImportError, AttributeError):
        return [module]
    return [f"{module}.{name}" for name in names if not hasattr(owner, name)]


def check_host() -> None:
    """Refuse a ComfyUI that lacks a name which the pack takes from it.

    Raises:
        ImportError: naming what is missing.
    """
    if missing := missing_names():
        raise ImportError(
            f"BIVDiff needs {', '.join(missing)}, which this ComfyUI does not have. Update ComfyUI; if it is the "
            "newest, update BIVDiff."
        )
