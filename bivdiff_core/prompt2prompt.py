"""Prompt2Prompt (arXiv 2208.01626): a picture is edited through its prompt by giving the edited one its attention.

Source and target are denoised side by side. In the first steps the target takes over the source's cross-attention,
word by word, and its self-attention in the coarse layers; a local blend keeps the source wherever the named words are
not looked at. `L` is the length of the text context, tokens being counted with the start token at 0.
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
"""The local blend begins after this share of the steps: earlier the maps show nothing yet. The released code's begins
with the first step, and so does that of a latent inverted on grid `reference`."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt's words and the token ids of each, start and end token left out."""

    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    def positions(self) -> list[range]:
        """Where each word's tokens stand in the context."""
        ends = torch.tensor([0, *map(len, self.tokens)]).cumsum(0).add(1).tolist()
        return [range(start, end) for start, end in zip(ends, ends[1:], strict=False)]

    def find(self, word: str) -> list[int]:
        """Positions of all tokens of a word, punctuation and case aside; empty where the prompt lacks it."""
        same = [_normalize_word(own) == _normalize_word(word) for own in self.words]
        return [i for match, positions in zip(same, self.positions(), strict=True) if match for i in positions]


def _normalize_word(word: str) -> str:
    return word.lower().strip(".,;:!?\"'()")


@dataclass(frozen=True)
class CrossAttentionEdit:
    """What the target's cross-attention becomes: `(source @ mapping * share + target * (1 - share)) * weight`.

    mapping: `[L, L]`, how each source token's attention is handed to target tokens.
    share: `[L]`, 1 for target tokens that take it over, 0 for those that keep their own.
    weight: `[L]`, factor of each target token.
    """

    mapping: Tensor
    share: Tensor
    weight: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Edit probabilities `[F, heads, N, L]`."""
        mapping, share, weight = (t.to(source) for t in (self.mapping, self.share, self.weight))
        return (source @ mapping * share + target * (1 - share)) * weight


def build_attention_edit(
    edit: str, source: TokenizedPrompt, target: TokenizedPrompt, weights: dict[str, float], length: int
) -> CrossAttentionEdit:
    """The cross-attention edit between two prompts.

    Args:
        edit: `replace` exchanges words one for one, `refine` keeps the words that both prompts share, `reweight` is
            `refine` with some target words looked at more or less.
        weights: factor by word, for `reweight`.
        length: L.

    Raises:
        ValueError: replaced prompts of different word counts, or a weighted word that the target lacks.
    """
    mapping = torch.zeros(length, length)
    share = torch.ones(length)
    weight = torch.ones(length)
    ends = [1 + sum(map(len, prompt.tokens)) for prompt in (source, target)]
    mapping[0, 0] = 1
    if edit == "replace":
        if len(source.words) != len(target.words):
            raise ValueError(
                f"replace exchanges words one for one, but the source prompt has {len(source.words)} words and the "
                f"target prompt {len(target.words)}. Use as many words, or choose edit refine."
            )
        for own, others in zip(source.positions(), target.positions(), strict=True):
            if len(own) == len(others):
                mapping[list(own), list(others)] = 1
            else:
                mapping[own.start : own.stop, others.start : others.stop] = 1 / len(others)
    else:
        before, after = ([token for word in prompt.tokens for token in word] for prompt in (source, target))
        share[1 : ends[1]] = 0
        for start, other, size in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
            for i in range(1, size + 1):
                mapping[start + i, other + i] = share[other + i] = 1
    # End token to end token, padding to padding; what is left over when the source's is longer goes to the last.
    for i in range(length - ends[0]):
        mapping[ends[0] + i, min(ends[1] + i, length - 1)] = 1
    share[ends[1] + max(length - ends[0], 1) :] = 0
    if edit == "reweight":
        for word, factor in weights.items():
            positions = target.find(word)
            if not positions:
                raise ValueError(f"word_weights names {word!r}, which is not in the target prompt.")
            weight[positions] = factor
    return CrossAttentionEdit(mapping, share, weight)


def parse_weights(text: str) -> dict[str, float]:
    """`"fluffy: 2, red: 0.5"` as factors by word.

    Raises:
        ValueError: for anything else.
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
    """Values `[B, L, C]` gathered by probabilities `[B, heads, N, L]`, as `[B, N, C]`."""
    heads = probabilities.shape[1]
    values = rearrange(v.float(), "b l (h d) -> b h l d", h=heads)
    return rearrange(probabilities @ values, "b h n d -> b n (h d)").to(v.dtype)


def share_self_attention(queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Give the target frames (second half of the batch) the source frames' queries and keys.

    Args:
        queries: features the queries are made from, `[2F, N, C]`.
        context: features the keys are made from, `[2F, N, C]`.
    """
    frames = queries.shape[0] // 2
    return repeat(queries[:frames], "f n c -> (two f) n c", two=2), repeat(
        context[:frames], "f n c -> (two f) n c", two=2
    )


class LocalBlend:
    """Keeps the source's latent where neither prompt's blend words are looked at.

    Args:
        words: positions of the blend words' tokens in the source and in the target context.
        frames: F.
        size: of the maps, (height, width).
    """

    def __init__(self, words: Sequence[Sequence[int]], frames: int, size: tuple[int, int]):
        self.words = words
        self.size = size
        self.maps = torch.zeros(2, frames, *size)

    def look(self, probabilities: Tensor, frames: Sequence[int]) -> None:
        """Add what one layer attends to in a window.

        Args:
            probabilities: `[2f, heads, N, L]`, the window's source frames before its target frames.
            frames: which frames these are, f of them.
        """
        self.maps = self.maps.to(probabilities)
        for half, (rows, words) in enumerate(zip(probabilities.chunk(2), self.words, strict=True)):
            seen = rows[..., list(words)].sum(dim=(1, 3))
            self.maps[half, list(frames)] += rearrange(seen, "f (h w) -> f h w", h=self.size[0])

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """The target latent `[F, C, H, W]` inside the mask, the source's outside."""
        maps = F.max_pool2d(self.maps, 3, stride=1, padding=1)
        maps = F.interpolate(maps, size=source.shape[-2:], mode="nearest")
        largest = maps.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
        mask = (maps / largest > BLEND_THRESHOLD).any(dim=0)[:, None].to(source.dtype)
        return source + mask * (target - source)
