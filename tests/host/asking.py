"""How tests ask nodes: their inputs, what they say in answer, and a prompt with hook keyframes."""

import comfy.hooks
import torch

from tools.standins import tiny_models as tiny


def inputs_of(node_id: str, model, latent: dict, text: list | None = None) -> dict:
    text = text or tiny.text(seed=1)
    given = {"model": model, "steps": 4, "scheduler": "normal"}
    given["latent_image" if node_id == "BIVDiffFrameSampler" else "latent"] = latent
    if node_id.startswith("BIVDiffInvert"):
        return {**given, "conditioning": text}
    return {**given, "positive": text, "negative": tiny.text(seed=2), "cfg": 1.0}


def output(pack, node_id: str, **inputs):
    """A node's whole output, what it shows on itself included."""
    schema = pack.classes[node_id].INPUT_TYPES()
    specs = {**schema["required"], **schema.get("optional", {})}
    defaults = {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}
    with torch.inference_mode():
        return pack.classes[node_id].execute(**{**defaults, **inputs})


def warnings(pack, node_id: str, **inputs) -> str:
    """What a run says on its node."""
    shown = output(pack, node_id, **inputs).ui
    return "\n".join(shown["text"]) if shown else ""


WEAKER = 0.5
"""Of the LoRA below: at strength 1 the network's last layer answers with half its output."""
STRENGTHS = {0.0: 0.3, 0.3: 1.0, 0.7: -0.5}
"""Of the LoRA, from these shares of the schedule on."""


def keyframed_text() -> list:
    """A prompt with a LoRA hook whose strength changes twice on the way."""
    layer = tiny.sd_model().model.diffusion_model.out[2]
    weights = {
        "diffusion_model.out.2.diff": (WEAKER - 1) * layer.weight,
        "diffusion_model.out.2.diff_b": (WEAKER - 1) * layer.bias,
    }
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in STRENGTHS.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
    hooks.set_keyframes_on_hooks(keyframes)
    return comfy.hooks.set_hooks_for_conditioning(tiny.text(), hooks)
