"""Model files that the frontend offers to download if they are missing: URL and folder in models/.

The frontend only offers files from servers and with suffixes that it trusts, under exactly the name in the widget.
ComfyUI's own templates name the same URLs, except `UNVERIFIED`.
"""

from __future__ import annotations

HUB = "https://huggingface.co/"
CONTROL_NETS = "comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main"
WAN = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN_22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
QWEN = "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
FLUX_TEXT = "comfyanonymous/flux_text_encoders/resolve/main"
FOLDERS = {
    "checkpoints": (
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "stable-diffusion-v1-5/stable-diffusion-inpainting/resolve/main/sd-v1-5-inpainting.ckpt",
        "timbrooks/instruct-pix2pix/resolve/main/instruct-pix2pix-00-22000.safetensors",
        "Lightricks/LTX-2/resolve/main/ltx-2-19b-dev-fp8.safetensors",
    ),
    "controlnet": (
        f"{CONTROL_NETS}/control_v11p_sd15_canny_fp16.safetensors",
        f"{CONTROL_NETS}/control_v11f1p_sd15_depth_fp16.safetensors",
        f"{CONTROL_NETS}/control_v11f1e_sd15_tile_fp16.safetensors",
        "TencentARC/T2I-Adapter/resolve/main/models/t2iadapter_canny_sd15v2.pth",
        "TencentARC/T2I-Adapter/resolve/main/models/t2iadapter_depth_sd15v2.pth",
    ),
    "background_removal": ("Comfy-Org/BiRefNet/resolve/main/background_removal/birefnet.safetensors",),
    "geometry_estimation": (
        "Comfy-Org/Depth-Anything-3/resolve/main/geometry_estimation/depth_anything_3_mono_large.safetensors",
    ),
    "diffusion_models": (
        f"{WAN}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",
        f"{WAN}/diffusion_models/wan2.1_vace_1.3B_fp16.safetensors",
        f"{WAN_22}/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        f"{WAN_22}/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        "Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models/"
        "qwen_image_edit_fp8_e4m3fn.safetensors",
        "Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models/"
        "flux1-dev-kontext_fp8_scaled.safetensors",
    ),
    "text_encoders": (
        f"{WAN}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        f"{QWEN}/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
        f"{FLUX_TEXT}/clip_l.safetensors",
        f"{FLUX_TEXT}/t5xxl_fp8_e4m3fn_scaled.safetensors",
        "Comfy-Org/ltx-2/resolve/main/split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors",
    ),
    "vae": (
        f"{WAN}/vae/wan_2.1_vae.safetensors",
        f"{QWEN}/vae/qwen_image_vae.safetensors",
        "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    ),
}
UNVERIFIED = ("stable-diffusion-v1-5/", "timbrooks/", "comfyanonymous/ControlNet-v1-1", "TencentARC/")
"""Beginnings of paths that are from install scripts and notes of other projects; nobody has opened these URLs."""
DOWNLOADS = {
    path.rsplit("/", 1)[-1]: {"name": path.rsplit("/", 1)[-1], "url": HUB + path, "directory": folder}
    for folder, paths in FOLDERS.items()
    for path in paths
}
"""Entries for a node's ``properties.models``, by file name."""
