"""All names that the pack uses from ComfyUI, checked once, before any node is defined.

A test compares the tables with the source. ComfyUI's version number is not used.
"""

from pkgutil import resolve_name

REQUIRED_NAMES = {
    "comfy.conds": "CONDList",
    "comfy.context_windows": "ContextFuseMethods ContextSchedule ContextSchedules IndexListCallbacks "
    "IndexListContextHandler IndexListContextWindow create_prepare_sampling_wrapper get_matching_context_schedule "
    "get_matching_fuse_method",
    "comfy.controlnet": "ControlNet",
    "comfy.hooks": "EnumHookType HookGroup HookKeyframeGroup",
    "comfy.latent_formats": "LatentFormat",
    "comfy.ldm.hunyuan_video.model": "HunyuanVideo",
    "comfy.ldm.modules.attention": "BasicTransformerBlock CrossAttention optimized_attention",
    "comfy.ldm.modules.diffusionmodules.openaimodel": "ResBlock UNetModel",
    "comfy.model_base": "BaseModel GenmoMochi HunyuanVideo IP2P LTXV SVD_img2vid WAN21 WAN22_Animate",
    "comfy.model_management": "current_loaded_models get_free_memory get_torch_device intermediate_device "
    "intermediate_dtype is_oom load_model_gpu raise_non_oom soft_empty_cache throw_exception_if_processing_interrupted",
    "comfy.model_patcher": "create_model_options_clone",
    "comfy.model_sampling": "CONST EPS IMG_TO_IMG IMG_TO_IMG_FLOW ModelSamplingDiscrete V_PREDICTION X0",
    "comfy.ops": "disable_weight_init",
    "comfy.patcher_extension": "PatcherInjection WrapperExecutor WrappersMP add_callback_with_key copy_nested_dicts "
    "get_all_wrappers",
    "comfy.sample": "fix_empty_latent_channels prepare_noise",
    "comfy.sampler_helpers": "estimate_memory get_additional_models",
    "comfy.samplers": "CFGGuider KSampler KSamplerX0Inpaint SCHEDULER_NAMES Sampler calculate_sigmas sampler_object",
    "comfy.supported_models": "SD20",
    "comfy.supported_models_base": "BASE",
    "comfy.utils": "PROGRESS_BAR_ENABLED ProgressBar load_torch_file state_dict_prefix_replace unet_to_diffusers",
    "comfy_api.latest": "ComfyExtension io",
    "comfy_api.latest.io": "Clip Combo ComfyNode Conditioning Custom Float Image Input Int Latent Model NodeOutput "
    "Schema String Vae",
    "latent_preview": "get_previewer",
}
"""Names that all nodes need, by module."""

NEEDED_BY = {
    "borrow_control": {
        "comfy.hooks": "EnumHookMode",
        "comfy.samplers": "calc_cond_batch",
    },
    "bridge_guider": {
        "comfy_api.latest.io": "Guider",
    },
    "compare reports": {
        "comfy_api.latest": "ui",
        "comfy_api.latest.ui": "PreviewImage",
    },
    "demo_nodes": {
        "comfy.cldm.cldm": "ControlNet",
        "comfy.clip_model": "CLIPEmbeddings",
        "comfy.controlnet": "T2IAdapter",
        "comfy.ops": "pick_operations",
        "comfy.sd1_clip": "SD1Tokenizer SDTokenizer",
        "comfy.t2i_adapter.adapter": "Adapter",
        "comfy_api.latest": "InputImpl Types",
        "comfy_api.latest.io": "ControlNet Video",
        "comfy_execution.utils": "get_executing_context",
        "server": "PromptServer",
    },
    "demo_nodes video_model": {
        "comfy.clip_model": "CLIPTextModel",
        "comfy.model_management": "unet_dtype unet_manual_cast unet_offload_device",
        "comfy.model_patcher": "CoreModelPatcher ModelPatcher",
        "comfy.sd": "CLIP VAE",
        "comfy.sd1_clip": "SD1ClipModel SDClipModel",
        "comfy.supported_models_base": "ClipTarget",
        "comfy.utils": "calculate_parameters weight_dtype",
    },
    "clip_frames compare": {
        "comfy_api.latest.io": "Audio",
    },
    "compare": {
        "folder_paths": "get_temp_directory",
    },
    "core_sampling inversion": {
        "comfy_api.latest.io": "Noise",
    },
    "frame_conditioning": {
        "comfy.ldm.qwen_image.model": "QwenImageTransformer2DModel",
    },
    "latent_storage": {
        "comfy.cli_args": "args",
        "comfy.utils": "save_torch_file",
        "comfy_api.latest.io": "Hidden",
        "folder_paths": "exists_annotated_filepath get_annotated_filepath get_input_directory get_output_directory "
        "get_save_image_path",
    },
    "reports": {
        "comfy_api.latest.io": "Boolean ClipVision",
    },
    "sampling": {
        "comfy.samplers": "SAMPLER_NAMES",
    },
    "sweep": {
        "comfy_api.latest.io": "MultiType",
    },
    "video_model": {
        "comfy.clip_model": "ACTIVATIONS",
        "comfy.diffusers_convert": "convert_vae_state_dict",
        "comfy.latent_formats": "SD15",
        "comfy.ldm.models.autoencoder": "AutoencoderKL",
        "comfy.model_base": "ModelType",
        "comfy.text_encoders.sd2_clip": "SD2Tokenizer",
        "comfy.utils": "clip_text_transformers_convert",
        "folder_paths": "get_folder_paths",
    },
}
"""Names that only some files of nodes/ need, by those files; the other nodes load without them."""

REMEDY = "Update ComfyUI; if it is up to date, update BIVDiff."


def find_missing_names(table: dict[str, str]) -> list[str]:
    """Return the full names of a table that this ComfyUI does not have."""
    return [name for module, names in table.items() for name in _find_missing(module, names.split())]


def _find_missing(module: str, names: list[str]) -> list[str]:
    try:
        owner = resolve_name(module)
    except (ImportError, AttributeError):
        return [module]
    return [f"{module}.{name}" for name in names if not hasattr(owner, name)]


def check_comfyui() -> None:
    """Check that ComfyUI has all names that every node needs.

    Raises:
        ImportError: a name is missing; the message lists all that are.
    """
    if missing := find_missing_names(REQUIRED_NAMES):
        raise ImportError(f"BIVDiff needs {', '.join(missing)}, which this ComfyUI does not have. {REMEDY}")


def find_missing_names_for(file: str) -> list[str]:
    """Return the full names that one file of nodes/ needs and this ComfyUI does not have."""
    return [name for files, table in NEEDED_BY.items() if file in files.split() for name in find_missing_names(table)]
