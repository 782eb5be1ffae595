"""BIVDiff for ComfyUI: steady videos from any image model, by bridging it with a video model (arXiv 2312.02813)."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./js"


class BIVDiffExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> BIVDiffExtension:
    """Entry point of a V3 node pack."""
    return BIVDiffExtension()
