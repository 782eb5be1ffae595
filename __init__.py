"""BIVDiff for ComfyUI: steady videos from any image model, by bridging it with a video model (arXiv 2312.02813)."""

from .bivdiff_core.host.compat.required_names import check_comfyui

check_comfyui()

from comfy_api.latest import ComfyExtension, io  # noqa: E402

from .nodes import NODES  # noqa: E402

WEB_DIRECTORY = "./js"


class BIVDiffExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> BIVDiffExtension:
    """Entry point of a V3 node pack."""
    return BIVDiffExtension()
