"""Prompt2Prompt on the host: patches on a UNet's attention, source and target frames in one batch."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor
from tqdm.auto import trange

from ..grids import Schedule
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
from ..solvers import Callback, Denoiser
from . import validation
from .comfy_types import CLIP, Latent, Model
from .latents import replace_samples
from .prompts import PromptPair
from .stages import denoise_samples, denoising_sigmas, make_guider
from .validation import StageInput
from .windows import FrameWindows, PairedWindows, WindowSettings, set_windows

log = logging.getLogger(__name__)

MIN_BLEND_CELLS = 8
"""On a side of the local blend's maps. On fewer, a word's place and the cells around it are the whole picture."""
POSITIVE_COND = 0
"""How the host numbers the positive prompt in `cond_or_uncond`."""


def tokenize_prompt(clip: CLIP, text: str) -> TokenizedPrompt:
    """A prompt's words with the tokens that the CLIP makes of each.

    Raises:
        ValueError: where tokens cannot be told word by word: weights in brackets, embeddings, over 75 tokens.
    """

    def tokens(text: str) -> tuple[int, ...]:
        encoders = clip.tokenize(text, return_word_ids=True).values()
        if any(len(sections) > 1 for sections in encoders):
            raise ValueError(f"the prompt {text!r} is longer than one section of 75 tokens. Shorten it.")
        return tuple(token for token, _, word in next(iter(encoders))[0] if word)

    words = tuple(text.split())
    prompt = TokenizedPrompt(words, tuple(map(tokens, words)))
    if sum(prompt.tokens, ()) != tokens(text):
        raise ValueError(
            f"the prompt {text!r} has weights in brackets or embeddings, which cannot be matched word by word. Write "
            "plain words, and weights in word_weights."
        )
    return prompt


@dataclass(frozen=True)
class PromptEdit:
    """What is to become of a prompt's words.

    Args:
        kind: one of `prompt2prompt.EDITS`.
        cross_replace_steps, self_replace_steps: shares of the steps, 0..1.
        local_blend_words: words of either prompt, separated by blanks or commas; empty edits the whole picture.
        word_weights: as `prompt2prompt.parse_weights` reads them.
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
    """The two attention patches of a run; `step` says how far it is.

    Only the conditional rows are edited, source before target in each window, so it does not matter whether the host
    puts the negative prompt into the same call.

    Args:
        edit: of the cross-attention, through the first `cross_steps` steps.
        self_steps: steps in which layers of at most `coarse` tokens take over the source's self-attention.
        blend: gathers the maps of layers of its size; None where no local blend is wanted.
        blend_from: the step that it begins with.
    """

    def __init__(
        self,
        edit: CrossAttentionEdit,
        cross_steps: int,
        self_steps: int,
        coarse: int,
        blend: LocalBlend | None,
        blend_from: int,
    ):
        self.edit = edit
        self.cross_steps = cross_steps
        self.self_steps = self_steps
        self.coarse = coarse
        self.blend = blend
        self.blend_from = blend_from
        self.step = 0

    def patch(self, model: Model) -> Model:
        """A clone of the MODEL with the patches, or the MODEL itself where there is nothing to edit."""
        model = model.clone()
        if self.self_steps:
            model.set_model_attn1_patch(self.self_attention)
        if self.cross_steps or self.blend:
            unet = model.model.diffusion_model
            for name, blocks in (("input", unet.input_blocks), ("output", unet.output_blocks), ("middle", [None])):
                for number in range(len(blocks)):
                    model.set_model_attn2_replace(self.cross_attention, name, number)
        return model

    def self_attention(
        self, queries: Tensor, context: Tensor, values: Tensor, options: dict
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Host patch attn1_patch; all three are the layer's features, `[rows, N, C]`."""
        if self.step < self.self_steps and queries.shape[1] <= self.coarse:
            queries, context = queries.clone(), context.clone()
            for rows in _positive_rows(queries, options):
                queries[rows], context[rows] = share_self_attention(queries[rows], context[rows])
        return queries, context, values

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        """Host patch attn2_replace; queries `[rows, N, C]`, keys and values `[rows, L, C]`."""
        heads = options["n_heads"]
        out = optimized_attention(q, k, v, heads, attn_precision=options["attn_precision"])
        replacing = self.step < self.cross_steps
        blend = self.blend if self.blend and q.shape[1] == math.prod(self.blend.size) else None
        if replacing or blend:
            for rows in _positive_rows(q, options):
                probabilities = attention_probabilities(q[rows], k[rows], heads)
                if blend:
                    blend.look(probabilities, _window_frames(options, probabilities.shape[0] // 2))
                if replacing:
                    source, target = probabilities.chunk(2)
                    out[rows.stop - len(target) : rows.stop] = apply_attention(
                        self.edit(source, target), v[rows.stop - len(target) : rows.stop]
                    )
        return out


def _positive_rows(batch: Tensor, options: dict) -> list[slice]:
    """Where the positive prompt's rows lie in a batch that may hold the negative's too."""
    conds = options["cond_or_uncond"]
    size = batch.shape[0] // len(conds)
    return [slice(i * size, (i + 1) * size) for i, cond in enumerate(conds) if cond == POSITIVE_COND]


def _window_frames(options: dict, frames: int) -> Sequence[int]:
    """Which frames a call holds: its window's source rows, all of them where there are no windows."""
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
    """DDIM (Euler) over `[source; target]`, the target blended into the source after each step."""
    steps = len(sigmas) - 1
    for i in trange(steps, disable=disable):
        patches.step = i
        denoised = model(x, sigmas[i].expand(x.shape[0]), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        if patches.blend is not None and i >= patches.blend_from:
            source, target = x.chunk(2)
            x = torch.cat([source, patches.blend(source, target)])
    return x


def attention_map_size(model: Model, height: int, width: int, least: int = 1) -> tuple[int, int]:
    """Height and width of the attention maps that injection and blend work on.

    A quarter of the latent's side, 16x16 for SD 1.5 at 512x512; the UNet's coarsest where it does not go that far, and
    finer ones where that would leave fewer than `least` cells on a side.
    """
    levels = len(model.model.model_config.unet_config["channel_mult"]) - 1
    sizes = [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(min(levels, 2), -1, -1)]
    return next((size for size in sizes if min(size) >= least), sizes[-1])


def edit_frames(
    model: Model, clip: CLIP, latent: Latent, edit: PromptEdit, schedule: Schedule, cfg: float, frames_per_batch: int
) -> tuple[Latent, Latent]:
    """Denoise inverted frames twice side by side, with the source prompt and, its attention edited, with the target.

    Args:
        clip: CLIP of the MODEL.
        latent: LATENT `[F, C, H, W]` inverted with the source prompt.

    Returns:
        The edited and the reconstructed LATENT.

    Raises:
        ValueError: before any sampling, where model, latent and words do not fit together.
    """
    if not isinstance(model.model.diffusion_model, UNetModel):
        raise ValueError(
            f"{type(model.model.diffusion_model).__name__} has no cross-attention to edit. Use an SD 1.5, SD 2 or SDXL "
            "model."
        )
    _check_chunks(model)
    if edit.local_blend_words:
        model = _use_one_device(model)
    texts = [
        clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        for text in (edit.source_prompt, edit.target_prompt, edit.negative_prompt)
    ]
    source, target, negative = ([(text, {"pooled_output": pooled})] for text, pooled in texts)
    admitted = validation.validate_stage(
        validation.DENOISE_FRAMES, model, latent, PromptPair(source + target, negative, cfg), WindowSettings()
    )
    frames = admitted.samples.shape[0]
    patches = _build_patches(admitted, clip, edit, schedule.steps, length=texts[0][0].shape[1])

    sampling = model.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, schedule.scheduler, schedule.steps)
    sigmas = denoising_sigmas(admitted, levels, schedule)
    text, pooled = (
        torch.cat([row.repeat_interleave(frames, dim=0) for row in rows]) for rows in zip(*texts[:2], strict=True)
    )
    out = denoise_samples(
        admitted,
        make_guider(
            set_windows(patches.patch(admitted.model), PairedWindows(frames_per_batch)),
            PromptPair([(text, {"pooled_output": pooled})], negative, cfg),
        ),
        partial(_denoise_pair, patches=patches),
        sigmas,
        torch.cat([admitted.samples, admitted.samples]),
    )
    reconstructed, edited = out.chunk(2)
    return replace_samples(latent, edited), replace_samples(latent, reconstructed)


def _use_one_device(model: Model) -> Model:
    """The MODEL without its copies for other devices, where the maps of all frames are to come together."""
    if not model.get_additional_models_with_key("multigpu"):
        return model
    log.warning("A local blend needs the attention of all frames together: the edit runs on one GPU.")
    model = model.clone()
    model.remove_additional_models("multigpu")
    return model


def _check_chunks(model: Model) -> None:
    windows = model.model_options.get("context_handler")
    if windows is not None and not (isinstance(windows, FrameWindows) and windows.independent):
        raise ValueError(
            "the model has context windows, which would separate frames from their sources. Wire in the model from "
            "before Context Windows; frames_per_batch saves memory here."
        )


def _build_patches(admitted: StageInput, clip: CLIP, edit: PromptEdit, steps: int, length: int) -> AttentionPatches:
    """The attention patches of an edit.

    Args:
        length: of the encoded prompts, in tokens.
    """
    source, target = (tokenize_prompt(clip, text) for text in (edit.source_prompt, edit.target_prompt))
    alignment = build_attention_edit(edit.kind, source, target, parse_weights(edit.word_weights), length)
    words = edit.local_blend_words.replace(",", " ").split()
    for word in words:
        if not source.find(word) and not target.find(word):
            raise ValueError(f"local_blend_words has {word!r}, which is in neither prompt.")
    found = [[i for word in words for i in prompt.find(word)] for prompt in (source, target)]
    frames, _, height, width = admitted.samples.shape
    released = admitted.inversion is not None and admitted.inversion.grid == "reference"
    blend_size = attention_map_size(admitted.model, height, width, least=MIN_BLEND_CELLS)
    return AttentionPatches(
        alignment,
        round(edit.cross_replace_steps * steps),
        round(edit.self_replace_steps * steps),
        math.prod(attention_map_size(admitted.model, height, width)),
        LocalBlend(found, frames, blend_size) if words else None,
        0 if released else math.ceil(BLEND_START * steps),
    )
