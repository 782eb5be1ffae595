"""Model files that the page offers to download where they are missing: from where, and into which folder of models/.

The page offers a file only from a host and with a suffix that it trusts, and under the very name that the widget shows.
None of these addresses could be opened when they were written down. Those of Comfy-Org are from ComfyUI's own
templates; the others are what others' install scripts and notes give.
"""

from __future__ import annotations

HUB = "https://huggingface.co/"
CONTROL_NETS = "comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main"
WAN = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
FOLDERS = {
    "checkpoints": (
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "stable-diffusion-v1-5/stable-diffusion-inpainting/resolve/main/sd-v1-5-inpainting.ckpt",
        "timbrooks/instruct-pix2pix/resolve/main/instruct-pix2pix-00-22000.safetensors",
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
    "diffusion_models": (f"{WAN}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",),
    "text_encoders": (f"{WAN}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",),
    "vae": (f"{WAN}/vae/wan_2.1_vae.safetensors",),
}
DOWNLOADS = {
    path.rsplit("/", 1)[-1]: {"name": path.rsplit("/", 1)[-1], "url": HUB + path, "directory": folder}
    for folder, paths in FOLDERS.items()
    for path in paths
}
"""By file name, as a node's ``properties.models`` holds them."""
