"""Convert diffusers' configurations of Stable Diffusion's networks to ComfyUI's."""


def to_comfy_unet_config(config: dict) -> dict:
    """Convert the configuration of diffusers' UNet2DConditionModel to that of ComfyUI's UNetModel."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    depths = [int(kind == "CrossAttnDownBlock2D") for kind in config["down_block_types"]]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers for _ in widths],
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "legacy": False,
        "adm_in_channels": None,
    }


def to_comfy_vae_config(config: dict) -> dict:
    """Convert the configuration of diffusers' AutoencoderKL with 4 latent channels to arguments of ComfyUI's."""
    widths = config["block_out_channels"]
    layout = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"ddconfig": layout, "embed_dim": 4}
