"""Prompt2Prompt in ComfyUI: attention patches on a UNet, with source and target frames in one batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor
from tqdm.auto import trange

from ..grids import Schedule
from ..node_warnings import warn
from ..prompt2prompt import (
    BLEND_START,
    CrossAttentionEdit,
    LocalBlend,
    TokenizedPrompt,
    apply_attention,
    attention_probabilities,
    build_attention_edit,
    parse_weights,
    share_self_attention,
)
from ..solvers import Callback, Denoiser, euler_step
from . import validation
from .comfy_types import CLIP, Latent, Model
from .latents import replace_samples
from .prompts import PromptPair
from .stages import denoise_samples, levels_from_latent, make_guider
from .validation import StageInput
from .windows import FrameWindows, PairedWindows, WindowSettings, set_windows

MIN_BLEND_CELLS = 8
"""Minimum side of the local blend's maps, in cells. In smaller maps, a word's region after the 3x3 dilation covers the
whole image."""
POSITIVE_COND = 0
"""ComfyUI's number for the positive prompt in `cond_or_uncond`, which lists the prompts of a model call."""


def tokenize_prompt(clip: CLIP, text: str) -> TokenizedPrompt:
    """Split a prompt into words, with the CLIP's tokens of each word.

    Raises:
        ValueError: tokens cannot be assigned to words: weights in brackets, embeddings, over 75 tokens.
    """

    def tokenize(text: str) -> tuple[int, ...]:
        encoders = clip.tokenize(text, return_word_ids=True).values()
        if any(len(sections) > 1 for sections in encoders):
            raise ValueError(f"the prompt {text!r} is longer than 75 tokens. Shorten it.")
        return tuple(token for token, _, word in next(iter(encoders))[0] if word)

    words = tuple(text.split())
    prompt = TokenizedPrompt(words, tuple(map(tokenize, words)))
    if sum(prompt.tokens, ()) != tokenize(text):
        raise ValueError(
            f"the prompt {text!r} has weights in brackets or embeddings, which cannot be matched word by word. Write "
            "plain words, and weights in word_weights."
        )
    return prompt


@dataclass(frozen=True)
class PromptEdit:
    """Settings of a Prompt2Prompt edit.

    Args:
        source_prompt: prompt of the inversion.
        target_prompt: prompt of the edited frames.
        negative_prompt: for both.
        kind: one of `prompt2prompt.EDITS`.
        cross_replace_steps, self_replace_steps: fractions of the steps, 0..1, with edited cross-attention and with the
            source's self-attention.
        local_blend_words: words of either prompt, separated by spaces or commas; empty edits the whole image.
        word_weights: text for `prompt2prompt.parse_weights`.
    """

    source_prompt: str
    target_prompt: str
    negative_prompt: str
    kind: str
    cross_replace_steps: float
    self_replace_steps: float
    local_blend_words: str
    word_weights: str


class AttentionPatches:
    """The two attention patches of a run; `step` is the index of the current step.

    Only the rows of the positive prompt are edited, source before target in each window. The negative prompt may be in
    the same call or in another.

    Args:
        edit: edits the cross-attention in the first `cross_steps` steps.
        self_steps: number of initial steps in which the target uses the source's self-attention.
        max_tokens: layers with more tokens per frame keep their own self-attention.
        blend: collects the attention maps of layers of its size; None without a local blend.
        blend_start: index of the first step with the local blend.
    """

    def __init__(
        self,
        edit: CrossAttentionEdit,
        cross_steps: int,
        self_steps: int,
        max_tokens: int,
        blend: LocalBlend | None,
        blend_start: int,
    ):
        self.edit = edit
        self.cross_steps = cross_steps
        self.self_steps = self_steps
        self.max_tokens = max_tokens
        self.blend = blend
        self.blend_start = blend_start
        self.step = 0

    def patch(self, model: Model) -> Model:
        """A clone of the MODEL with the patches that this edit needs."""
        model = model.clone()
        if self.self_steps:
            model.set_model_attn1_patch(self.self_attention)
        if self.cross_steps or self.blend:
            unet = model.model.diffusion_model
            blocks = {"input": len(unet.input_blocks), "output": len(unet.output_blocks), "middle": 1}
            keys = [(name, number) for name, count in blocks.items() for number in range(count)]
            others = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
            for key in {**dict.fromkeys(keys), **others}:
                model.set_model_attn2_replace(_EditedAttention(self, others.get(key)), *key)
        return model

    def self_attention(
        self, queries: Tensor, context: Tensor, values: Tensor, options: dict
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ComfyUI's attn1_patch; all three inputs are the layer's features, `[rows, N, C]`."""
        if self.step < self.self_steps and queries.shape[1] <= self.max_tokens:
            queries, context = queries.clone(), context.clone()
            for rows in _positive_rows(queries, options):
                queries[rows], context[rows] = share_self_attention(queries[rows], context[rows])
        return queries, context, values

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, options: dict, out: Tensor) -> Tensor:
        """Edit a layer's attention; queries and result `[rows, N, C]`, keys and values `[rows, L, C]`.

        Args:
            out: the attention without the edit, which replaces the target's text attention and keeps what another node
                has added to it.
        """
        heads = options["n_heads"]
        replacing = self.step < self.cross_steps
        blend = self.blend if self.blend and q.shape[1] == math.prod(self.blend.size) else None
        if replacing or blend:
            for rows in _positive_rows(q, options):
                probabilities = attention_probabilities(q[rows], k[rows], heads)
                if blend:
                    blend.add_attention(probabilities, _window_frames(options, probabilities.shape[0] // 2))
                if replacing:
                    source, target = probabilities.chunk(2)
                    target_rows = slice(rows.stop - len(target), rows.stop)
                    out[target_rows] += apply_attention(self.edit(source, target) - target, v[target_rows])
        return out


@dataclass
class _EditedAttention:
    """ComfyUI's attn2_replace with the edit, after the replacement of another node (IP-Adapter) if there is one."""

    patches: AttentionPatches
    other: Any

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        if self.other is None:
            out = optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"])
        else:
            out = self.other(q, k, v, options)
        return self.patches.cross_attention(q, k, v, options, out)

    def to(self, device: torch.device) -> "_EditedAttention":
        """ComfyUI moves a MODEL's patches with it, and calls this with a dtype too."""
        if hasattr(self.other, "to"):
            self.other = self.other.to(device)
        return self

    def models(self) -> list[Model]:
        """Models that ComfyUI loads with the MODEL."""
        return self.other.models() if hasattr(self.other, "models") else []


def _positive_rows(batch: Tensor, options: dict) -> list[slice]:
    """The positive prompt's rows in a batch that may also hold the negative prompt's rows."""
    conds = options["cond_or_uncond"]
    size = batch.shape[0] // len(conds)
    return [slice(i * size, (i + 1) * size) for i, cond in enumerate(conds) if cond == POSITIVE_COND]


def _window_frames(options: dict, frames: int) -> Sequence[int]:
    """Indices of the frames in a model call: the source rows of its window, or all frames without windows."""
    window = options.get("context_window")
    return range(frames) if window is None else window.index_list[:frames]


def _denoise_pair(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callback,
    disable: bool,
    *,
    patches: AttentionPatches,
) -> Tensor:
    """DDIM (Euler) on a batch `[source; target]`; the local blend, if any, is applied to the target after each step."""
    steps = len(sigmas) - 1
    for i in trange(steps, disable=disable):
        patches.step = i
        denoised = model(x, sigmas[i].expand(x.shape[0]), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = euler_step(x, denoised, sigmas[i], sigmas[i + 1])
        if patches.blend is not None and i >= patches.blend_start:
            source, target = x.chunk(2)
            x = torch.cat([source, patches.blend(source, target)])
    return x


def attention_map_size(model: Model, height: int, width: int, min_cells: int = 1) -> tuple[int, int]:
    """Height and width of the attention maps for shared self-attention and the local blend.

    A quarter of the latent's side, 16x16 for SD 1.5 at 512x512. Larger if the UNet's coarsest level is larger, or if a
    side would have fewer than `min_cells` cells.
    """
    levels = len(model.model.model_config.unet_config["channel_mult"]) - 1
    sizes = [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(min(levels, 2), -1, -1)]
    return next((size for size in sizes if min(size) >= min_cells), sizes[-1])


def edit_frames(
    model: Model, clip: CLIP, latent: Latent, edit: PromptEdit, schedule: Schedule, cfg: float, frames_per_batch: int
) -> tuple[Latent, Latent]:
    """Denoise inverted frames with the source prompt and with the target prompt, in one batch with edited attention.

    Args:
        clip: the MODEL's CLIP.
        latent: LATENT `[F, C, H, W]` inverted with the source prompt.

    Returns:
        The edited and the reconstructed LATENT.

    Raises:
        ValueError: before any sampling, if model, latent and prompts do not fit each other.
    """
    if not isinstance(model.model.diffusion_model, UNetModel):
        raise ValueError(
            f"{type(model.model.diffusion_model).__name__} has no cross-attention to edit. Use an SD 1.5, SD 2 or SDXL "
            "model."
        )
    _reject_context_windows(model)
    if edit.local_blend_words:
        model = _use_one_device(model)
    texts = [
        clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        for text in (edit.source_prompt, edit.target_prompt, edit.negative_prompt)
    ]
    source, target, negative = ([(text, {"pooled_output": pooled})] for text, pooled in texts)
    stage_input = validation.validate_stage(
        validation.DENOISE_FRAMES, model, latent, PromptPair(source + target, negative, cfg), WindowSettings()
    )
    frames = stage_input.samples.shape[0]
    sigmas = levels_from_latent(stage_input, schedule)
    patches = _build_patches(stage_input, clip, edit, len(sigmas) - 1, length=texts[0][0].shape[1])
    text, pooled = (  # a row for each source frame, then for each target frame
        torch.cat([row.repeat_interleave(frames, dim=0) for row in rows]) for rows in zip(*texts[:2], strict=True)
    )
    model = set_windows(patches.patch(stage_input.model), PairedWindows(frames_per_batch))
    guider = make_guider(model, PromptPair([(text, {"pooled_output": pooled})], negative, cfg))
    samples = torch.cat([stage_input.samples, stage_input.samples])
    out = denoise_samples(stage_input, guider, partial(_denoise_pair, patches=patches), sigmas, samples)
    reconstructed, edited = out.chunk(2)
    return replace_samples(latent, edited), replace_samples(latent, reconstructed)


def _use_one_device(model: Model) -> Model:
    """The MODEL without its copies for other devices, because a local blend needs the maps of all frames together."""
    if not model.get_additional_models_with_key("multigpu"):
        return model
    warn("A local blend needs the attention of all frames together: the edit runs on one GPU.")
    model = model.clone()
    model.remove_additional_models("multigpu")
    return model


def _reject_context_windows(model: Model) -> None:
    windows = model.model_options.get("context_handler")
    if windows is not None and not (isinstance(windows, FrameWindows) and windows.is_independent):
        raise ValueError(
            "the model has context windows, which would separate edited frames from their source frames. Wire the "
            "model from before Context Windows. To save memory, lower frames_per_batch."
        )


def _build_patches(stage_input: StageInput, clip: CLIP, edit: PromptEdit, steps: int, length: int) -> AttentionPatches:
    """Build the attention patches of an edit.

    Args:
        length: length of the encoded prompts, in tokens.
    """
    source, target = (tokenize_prompt(clip, text) for text in (edit.source_prompt, edit.target_prompt))
    attention_edit = build_attention_edit(edit.kind, source, target, parse_weights(edit.word_weights), length)
    words = edit.local_blend_words.replace(",", " ").split()
    for word in words:
        if not source.token_positions(word) and not target.token_positions(word):
            raise ValueError(f"local_blend_words has {word!r}, which is in neither prompt.")
    positions = [[i for word in words for i in prompt.token_positions(word)] for prompt in (source, target)]
    frames, _, height, width = stage_input.samples.shape
    info = stage_input.inversion_info
    is_reference = info is not None and info.grid == "reference"
    blend_size = attention_map_size(stage_input.model, height, width, min_cells=MIN_BLEND_CELLS)
    return AttentionPatches(
        edit=attention_edit,
        cross_steps=round(edit.cross_replace_steps * steps),
        self_steps=round(edit.self_replace_steps * steps),
        max_tokens=math.prod(attention_map_size(stage_input.model, height, width)),
        blend=LocalBlend(positions, frames, blend_size) if words else None,
        blend_start=0 if is_reference else math.ceil(BLEND_START * steps),
    )
