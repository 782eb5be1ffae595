"""Frames per batch on the pretended accelerator where another model takes the memory.

    python -m tools.standins.accelerator.room FILE

FILE tells it as JSON. Run by test_accelerator.py.
"""

import json
import sys
from pathlib import Path

from . import comfyui

FRAMES = 8


def main(file: str) -> None:
    memory = comfyui.start(*comfyui.FP32)
    import comfy.model_management as host
    import torch

    from tools.host import Pack
    from tools.standins import tiny_models as tiny

    # The host keeps a gigabyte free whatever it runs, beside which the demo models would never be unloaded.
    host.EXTRA_RESERVED_VRAM = 0
    host.minimum_inference_memory = lambda: 0
    pack = Pack()
    image, video, clip, *_ = pack.run("BIVDiffDemoModels", variant="base")
    (text,) = pack.run("CLIPTextEncode", clip=clip, text="a red star on a cyan background")
    latent, empty = tiny.frames(FRAMES, 4, 8, 8), {"samples": torch.zeros(FRAMES, 4, 8, 8)}

    pack.run("BIVDiffInvertVideo", model=video, conditioning=text, latent=latent, steps=3)
    seen = {"video bytes": video.model_size(), "loaded before": video.loaded_size()}
    frame = 1.5 * image.memory_required([2, 4, 8, 8])  # what the host keeps free for one, cond and uncond
    memory.capacity = memory.used + image.model_size() + int(1.5 * frame)
    calls = tiny.Calls()
    settings = {"positive": text, "negative": text, "latent_image": empty, "steps": 3, "cfg": 1.0}
    pack.run("BIVDiffFrameSampler", model=calls.on(image), frames_per_batch=0, **settings)
    seen |= {"loaded after": video.loaded_size(), "frames at once": calls.rows}
    Path(file).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
