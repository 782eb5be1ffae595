"""ComfyUI in this process, with the pack loaded as ComfyUI loads custom nodes; for tests and measurements.

After `use_comfyui`, ComfyUI's modules can be imported (`import comfy.samplers`). The pack's modules cannot, because
ComfyUI loads them under a different name: use `Pack.import_module`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI")


def use_comfyui(cpu: bool, flags: Sequence[str] = ()) -> None:
    """Make ComfyUI importable, configured by these flags of its command line and `cpu`."""
    # Before the repository's root, whose folder `nodes` would hide ComfyUI's module `nodes`.
    sys.path.insert(0, str(COMFYUI))
    import comfy.options

    comfy.options.enable_args_parsing()
    arguments, sys.argv = sys.argv, [str(COMFYUI / "main.py"), *flags]
    from comfy.cli_args import args

    sys.argv = arguments
    # main.py imports this first too. Older ComfyUIs later put comfy/, which has another `utils`, first on the path.
    importlib.import_module("utils.install_util")
    args.cpu = cpu


class Pack:
    """This pack and all core nodes, loaded by ComfyUI."""

    def __init__(self) -> None:
        import nodes

        asyncio.run(nodes.init_builtin_extra_nodes())
        if not asyncio.run(nodes.load_custom_node(str(ROOT))):
            raise ImportError("ComfyUI could not load the pack; its log says why")
        self.name = str(ROOT).replace(".", "_x_")
        self.classes = nodes.NODE_CLASS_MAPPINGS
        self.node_ids = [name for name, node in self.classes.items() if node.__module__.startswith(f"{self.name}.")]

    def import_module(self, module: str) -> ModuleType:
        """A module of the pack: ``import_module("bivdiff_core.host.stages")``."""
        return importlib.import_module(f"{self.name}.{module}")

    def run(self, node_id: str, **inputs) -> tuple:
        """Run a node of the pack or of ComfyUI and return its outputs; missing inputs get the schema's defaults."""
        import torch

        node = self.classes[node_id]
        schema = node.INPUT_TYPES()
        specs = {**schema.get("required", {}), **schema.get("optional", {})}
        defaults = {name: rest[0]["default"] for name, (_, *rest) in specs.items() if rest and "default" in rest[0]}
        with torch.inference_mode():
            result = getattr(node(), node.FUNCTION)(**{**defaults, **inputs})
        return result if isinstance(result, tuple) else result.result
