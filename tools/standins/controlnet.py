"""Controls as Advanced-ControlNet makes them, to hold the pack to its rules without it: windows and keyframes."""

import comfy.controlnet
import torch
from torch import Tensor

from tools.standins import tiny_models as tiny


class SelfSlicing(comfy.controlnet.ControlNet):
    """A control as Advanced-ControlNet makes them: told a window's frames, it takes their part of the hints, of which
    the last holds for all frames beyond it, and of the strengths, one for each frame."""

    sub_idxs, full_latent_length, context_length = None, 0, 0

    def copy(self):
        copied = super().copy()
        copied.__class__ = SelfSlicing
        return copied

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        hints, self.cond_hint = self.cond_hint_original, None
        self.batched_number = batched_number
        try:
            if self.sub_idxs is not None:
                missing = self.full_latent_length - len(hints)
                self.cond_hint_original = torch.cat([hints, hints[-1:].expand(missing, -1, -1, -1)])[self.sub_idxs]
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = hints

    def control_merge(self, control, control_prev, output_dtype):
        seen = next(x for outs in control.values() for x in outs if x is not None)
        frames = self.full_latent_length if self.sub_idxs else len(seen) // self.batched_number
        strengths = torch.linspace(0.2, 1.8, frames)[self.sub_idxs or slice(frames)].repeat(self.batched_number)
        scaled = {key: [x * strengths.view(-1, 1, 1, 1) for x in outs] for key, outs in control.items()}
        return super().control_merge(scaled, control_prev, output_dtype)


class TimestepKeyframe:
    """From where on a control has which strength, and perhaps a mask for each frame; later ones inherit it."""

    def __init__(self, start_percent: float, strength: float, mask: Tensor | None = None):
        self.start_percent, self.strength, self.mask_hint_orig = start_percent, strength, mask
        self.guarantee_steps = 1


class TimestepKeyframes:
    """The keyframes of a control in the order of their starts."""

    def __init__(self, *keyframes: TimestepKeyframe):
        self.keyframes = list(keyframes)


class Keyframed(SelfSlicing):
    """A control of Advanced-ControlNet with timestep keyframes, which move on to later ones only."""

    calls: list[tuple[float, float]] = []
    """Sigma and strength of every call of any of them."""

    def copy(self):
        copied = super().copy()
        copied.__class__ = Keyframed
        copied.begin(self.timestep_keyframes)
        return copied

    def begin(self, keyframes: TimestepKeyframes) -> "Keyframed":
        self.__class__ = Keyframed
        self.timestep_keyframes = keyframes
        self.current_timestep_keyframe, self.current_timestep_index, self.current_used_steps = None, -1, 0
        self.tk_mask_cond_hint = None
        return self

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.begin(self.timestep_keyframes)
        for keyframe in self.timestep_keyframes.keyframes:
            keyframe.start_t = percent_to_timestep_function(keyframe.start_percent)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        current = self.current_timestep_keyframe
        if current is None or self.current_used_steps >= current.guarantee_steps:
            for i, keyframe in enumerate(self.timestep_keyframes.keyframes):
                if i > self.current_timestep_index and keyframe.start_t >= t[0]:
                    self.current_timestep_keyframe, self.current_timestep_index = keyframe, i
                    self.current_used_steps = 0
                    if keyframe.guarantee_steps > 0:
                        break
        self.current_used_steps += 1
        self.calls.append((t[0].item(), self.current_timestep_keyframe.strength))
        mask = self.current_timestep_keyframe.mask_hint_orig
        if mask is not None:
            self.tk_mask_cond_hint = mask[self.sub_idxs or slice(None)]
        return super().get_control(x_noisy, t, cond, batched_number, transformer_options)

    def control_merge(self, control, control_prev, output_dtype):
        factors = torch.full((1,), self.current_timestep_keyframe.strength)
        if self.tk_mask_cond_hint is not None:
            factors = factors * self.tk_mask_cond_hint.repeat(self.batched_number)
        scaled = {key: [x * factors.view(-1, 1, 1, 1) for x in outs] for key, outs in control.items()}
        return super().control_merge(scaled, control_prev, output_dtype)


def keyframed(keyframes: TimestepKeyframes) -> Keyframed:
    """A CONTROL_NET with timestep keyframes."""
    return Keyframed.begin(tiny.control_net(1), keyframes)
