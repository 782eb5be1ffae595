"""Windows on two pretended accelerators, by core's MultiGPU CFG Split, against one.

    python -m tools.standins.accelerator.pair FILE

FILE tells it as JSON. Run by test_accelerator.py.
"""

import json
import sys
from pathlib import Path
from threading import Barrier

from . import comfyui

WINDOWS = {"context_length": 3, "context_overlap": 1}


def main(file: str) -> None:
    comfyui.start(*comfyui.FP32, both=True)
    import comfy.utils
    import torch

    from tools.host import Pack

    from .chain import Run, Studio

    comfy.utils.PROGRESS_BAR_ENABLED = False
    run = Run(Pack())
    studio = Studio(run)
    adapted, *_, adapter = run("BIVDiffDemoModels", variant="t2i_adapter")
    encoded = run("BIVDiffEncodeFrames", vae=studio.vae, images=studio.frames)[0]
    outlined, sketched = studio.outlined(studio.control_net), studio.outlined(adapter)
    noise = {"samples": torch.randn(encoded["samples"].shape, generator=torch.Generator().manual_seed(1))}

    def make(image, video, adapted) -> dict[str, dict]:
        """What two windows a step make, at most one of them on each device at a time."""
        studio.image, studio.video = image, video
        return {
            "draw with ControlNet": studio.draw(image, **outlined, latent=studio.empty()),
            "draw with T2I-Adapter": studio.draw(adapted, **sketched, latent=studio.empty()),
            "invert image": studio.invert("Image", encoded, frames_per_batch=3),
            "invert video": studio.invert("Video", encoded, **WINDOWS),
            "smooth": studio.smooth(noise, **WINDOWS),
        }

    devices = set()
    meeting = Barrier(2, timeout=60)

    def meet(apply_model, args):
        devices.add(str(args["input"].device))
        meeting.wait()
        return apply_model(args["input"], args["timestep"], **args["c"])

    def on_both(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(meet)
        return run("MultiGPU_WorkUnits", model=model, max_gpus=2)[0]

    models = (studio.image, studio.video, adapted)
    one, two = make(*models), make(*map(on_both, models))
    same = {name: torch.equal(made["samples"], two[name]["samples"]) for name, made in one.items()}
    Path(file).write_text(json.dumps({"devices": sorted(devices), "the same": same}))


if __name__ == "__main__":
    main(*sys.argv[1:])
