"""The pack's nodes; each is a schema and a thin call into `bivdiff_core`."""

import logging
from importlib import import_module
from pkgutil import iter_modules

from ..bivdiff_core.host.compat.required_names import REMEDY, find_missing_names_for
from .base import PackNode

log = logging.getLogger(__name__)


def load_nodes() -> list[type[PackNode]]:
    """Load the node classes of every file here; log and skip files that need names missing in this ComfyUI."""
    nodes = []
    for file in sorted(module.name for module in iter_modules(__path__)):
        if missing := find_missing_names_for(file):
            names = ", ".join(missing)
            log.error("BIVDiff loads without the nodes of %s.py. Missing in ComfyUI: %s. %s", file, names, REMEDY)
            continue
        module = import_module(f".{file}", __package__)
        nodes += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, PackNode)
            and value.__module__ == module.__name__
            and "define_schema" in vars(value)
        ]
    return nodes


NODES = load_nodes()
