"""Prompt2Prompt (arXiv 2208.01626): edit an image by changing its prompt while reusing the source's attention maps.

Source and target are denoised side by side. In the first steps the target uses the source's cross-attention, word by
word, and the source's self-attention in the coarse layers. A local blend keeps the source pixels outside the region
that attends to the given words. `L` is the length of the text context; the start token has position 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

EDITS = ("replace", "refine", "reweight")
BLEND_THRESHOLD = 0.3
BLEND_START = 0.2
"""The local blend begins after this share of the steps, because earlier maps show nothing.

The released code begins with the first step. So do latents inverted on grid `reference`.
"""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt's words and the token ids of each word, without start and end token."""

    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    def token_ranges(self) -> list[range]:
        """Positions of each word's tokens in the context."""
        ends = torch.tensor([0, *map(len, self.tokens)]).cumsum(0).add(1).tolist()
        return [range(start, end) for start, end in zip(ends, ends[1:], strict=False)]

    def token_positions(self, word: str) -> list[int]:
        """Positions of all tokens of a word, ignoring punctuation and case; empty if the prompt does not have it."""
        matches = [_normalize_word(candidate) == _normalize_word(word) for candidate in self.words]
        return [i for match, tokens in zip(matches, self.token_ranges(), strict=True) if match for i in tokens]


def _normalize_word(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()")


@dataclass(frozen=True)
class CrossAttentionEdit:
    """Replaces the target's cross-attention: `(source @ mapping * share + target * (1 - share)) * weight`.

    Attributes:
        mapping: `[L, L]`, distributes each source token's attention over target tokens.
        share: `[L]`, 1 for target tokens that use the source's attention, 0 for those that keep theirs.
        weight: `[L]`, factor of each target token.
    """

    mapping: Tensor
    share: Tensor
    weight: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Apply the edit to attention probabilities `[F, heads, N, L]`."""
        mapping, share, weight = (t.to(source) for t in (self.mapping, self.share, self.weight))
        return (source @ mapping * share + target * (1 - share)) * weight


def build_attention_edit(
    edit: str, source: TokenizedPrompt, target: TokenizedPrompt, weights: dict[str, float], length: int
) -> CrossAttentionEdit:
    """The cross-attention edit from a source prompt to a target prompt.

    Args:
        edit: `replace` exchanges words one for one; `refine` keeps the attention of words that both prompts share;
            `reweight` is `refine` with the attention of some target words scaled.
        weights: factor by word, for `reweight`.
        length: L.

    Raises:
        ValueError: prompts of different word counts for `replace`, or a weighted word that the target does not have.
    """
    mapping = torch.zeros(length, length)
    share = torch.ones(length)
    weight = torch.ones(length)
    source_end, target_end = (1 + sum(map(len, prompt.tokens)) for prompt in (source, target))
    mapping[0, 0] = 1
    if edit == "replace":
        if len(source.words) != len(target.words):
            raise ValueError(
                f"replace exchanges words one for one, but the source prompt has {len(source.words)} words and the "
                f"target prompt {len(target.words)}. Use the same number of words, or set edit to refine."
            )
        for old, new in zip(source.token_ranges(), target.token_ranges(), strict=True):
            if len(old) == len(new):
                mapping[list(old), list(new)] = 1
            else:
                mapping[old.start : old.stop, new.start : new.stop] = 1 / len(new)
    else:
        source_tokens, target_tokens = ([t for word in prompt.tokens for t in word] for prompt in (source, target))
        share[1:target_end] = 0
        matcher = SequenceMatcher(None, source_tokens, target_tokens, autojunk=False)
        for source_start, target_start, size in matcher.get_matching_blocks():
            for i in range(1, size + 1):
                mapping[source_start + i, target_start + i] = share[target_start + i] = 1
    # End token to end token, padding to padding. Surplus source tokens map to the last target token.
    for i in range(length - source_end):
        mapping[source_end + i, min(target_end + i, length - 1)] = 1
    share[target_end + max(length - source_end, 1) :] = 0
    if edit == "reweight":
        for word, factor in weights.items():
            positions = target.token_positions(word)
            if not positions:
                raise ValueError(f"word_weights names {word!r}, which is not in the target prompt.")
            weight[positions] = factor
    return CrossAttentionEdit(mapping, share, weight)


def parse_weights(text: str) -> dict[str, float]:
    """Parse text such as `"fluffy: 2, red: 0.5"` to factors by word.

    Raises:
        ValueError: an entry is not `word: number`.
    """
    weights = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\S+?)\s*:\s*(-?\d*\.?\d+)", entry)
        if match is None:
            raise ValueError(f'expected comma-separated word_weights like "fluffy: 2", got {entry!r}.')
        weights[match[1]] = float(match[2])
    return weights


def attention_probabilities(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Softmax attention `[B, heads, N, L]` of queries `[B, N, C]` and keys `[B, L, C]`, in float32."""
    q, k = (rearrange(t.float(), "b n (h d) -> b h n d", h=heads) for t in (q, k))
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)


def apply_attention(probabilities: Tensor, v: Tensor) -> Tensor:
    """Mean of values `[B, L, C]` weighted by probabilities `[B, heads, N, L]`, as `[B, N, C]`."""
    heads = probabilities.shape[1]
    values = rearrange(v.float(), "b l (h d) -> b h l d", h=heads)
    return rearrange(probabilities @ values, "b h n d -> b n (h d)").to(v.dtype)


def share_self_attention(queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the queries and keys of the target frames (second half of the batch) by those of the source frames.

    Args:
        queries: features that the queries are computed from, `[2F, N, C]`.
        context: features that the keys are computed from, `[2F, N, C]`.
    """
    frames = queries.shape[0] // 2
    return repeat(queries[:frames], "f n c -> (two f) n c", two=2), repeat(
        context[:frames], "f n c -> (two f) n c", two=2
    )


class LocalBlend:
    """Keeps the source latent outside the region that attends to the blend words of either prompt.

    Args:
        words: positions of the blend words' tokens in the source context and in the target context.
        frames: F.
        size: (height, width) of the maps.
    """

    def __init__(self, words: Sequence[Sequence[int]], frames: int, size: tuple[int, int]):
        self.words = words
        self.size = size
        self.maps = torch.zeros(2, frames, *size)

    def add_attention(self, probabilities: Tensor, frames: Sequence[int]) -> None:
        """Add one layer's attention to the blend words, for the frames of a window.

        Args:
            probabilities: `[2f, heads, N, L]`, the window's source frames, then its target frames.
            frames: indices of the window's f frames.
        """
        self.maps = self.maps.to(probabilities)
        for half, (rows, words) in enumerate(zip(probabilities.chunk(2), self.words, strict=True)):
            attention = rows[..., list(words)].sum(dim=(1, 3))
            self.maps[half, list(frames)] += rearrange(attention, "f (h w) -> f h w", h=self.size[0])

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """The target latent `[F, C, H, W]` inside the mask, the source latent outside."""
        maps = F.max_pool2d(self.maps, 3, stride=1, padding=1)
        maps = F.interpolate(maps, size=source.shape[-2:], mode="nearest")
        largest = maps.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
        mask = (maps / largest > BLEND_THRESHOLD).any(dim=0)[:, None].to(source.dtype)
        return source + mask * (target - source)
