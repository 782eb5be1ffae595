"""The nodes an artist sees; each is a schema and a thin call into `bivdiff_core`."""

import logging
from importlib import import_module

from comfy_api.latest import io

from ..bivdiff_core.host.foreign.needed import REMEDY, missing_for

log = logging.getLogger(__name__)

FILES = {
    "sampling": ("FrameSampler", "TemporalSmoother"),
    "inversion": ("InvertImage", "InvertVideo", "InvertedNoise"),
    "blend": ("MixedInversion",),
    "frames": ("FrameNoise", "FrameChunks", "SelectFrames", "EncodeFrames", "AverageAlongMotion"),
    "prompt2prompt": ("Prompt2Prompt",),
    "video_model": ("VideoModelLoader",),
    "demo_models": ("DemoModels", "DemoClip"),
    "bridging": ("BridgeGuider",),
    "compare": ("CompareVideos",),
    "reports": ("LatentReport", "TemporalReport"),
    "sweep": ("RatioList", "ModeList", "SolverList", "SweepGrid"),
    "latent_files": ("SaveLatent", "LoadLatent"),
}
"""The node classes of each file."""


def load_nodes() -> list[type[io.ComfyNode]]:
    """The node classes, without those of files that need a name which this ComfyUI lacks; the log says which."""
    found = []
    for file, names in FILES.items():
        if missing := missing_for(file):
            left_out = ", ".join(f"BIVDiff{name}" for name in names)
            log.error("BIVDiff loads without %s. This ComfyUI lacks %s. %s", left_out, ", ".join(missing), REMEDY)
            continue
        module = import_module(f".{file}", __package__)
        found += [getattr(module, name) for name in names]
    return found


NODES = load_nodes()
