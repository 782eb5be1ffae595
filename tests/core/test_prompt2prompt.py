"""Prompt2Prompt's alignment of words and its local blend, on small prompts with known results."""

import pytest
import torch

from bivdiff_core.prompt2prompt import (
    LocalBlend,
    TokenizedPrompt,
    apply_attention,
    attention_probabilities,
    build_attention_edit,
    parse_weights,
)

LENGTH = 10
IDS = {"a": 11, "cat": 12, "dog": 13, "fluffy": 14, "runs": 15}


def prompt(text: str) -> TokenizedPrompt:
    """One token per word, but three for `poodle`."""
    words = tuple(text.split())
    return TokenizedPrompt(words, tuple((21, 22, 23) if word == "poodle" else (IDS[word],) for word in words))


def edited(edit: str, source: str, target: str, weights=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply an edit to random probabilities; return the result and both inputs, `[F, heads, N, L]` each."""
    probabilities = torch.rand(2, 3, 2, 5, LENGTH).softmax(dim=-1)
    alignment = build_attention_edit(edit, prompt(source), prompt(target), weights or {}, LENGTH)
    return alignment(*probabilities), *probabilities


@pytest.mark.parametrize("edit", ["replace", "refine", "reweight"])
def test_identical_prompts_use_all_of_the_sources_attention(edit):
    out, source, _ = edited(edit, "a cat runs", "a cat runs")
    torch.testing.assert_close(out, source)


def test_a_replaced_word_uses_the_attention_of_the_source_word():
    out, source, _ = edited("replace", "a cat runs", "a dog runs")
    torch.testing.assert_close(out, source)


def test_a_word_of_more_tokens_splits_the_attention_of_the_source_word_evenly():
    out, source, _ = edited("replace", "a cat runs", "a poodle runs")
    torch.testing.assert_close(out[..., 2:5], (source[..., 2:3] / 3).expand(-1, -1, -1, 3))
    torch.testing.assert_close(out[..., 5], source[..., 3])  # runs
    torch.testing.assert_close(out[..., 6], source[..., 4])  # the end token
    torch.testing.assert_close(out.sum(-1), torch.ones(3, 2, 5))


def test_a_word_of_fewer_tokens_sums_the_attention_of_the_source_word():
    out, source, target = edited("replace", "a poodle runs", "a cat runs")
    torch.testing.assert_close(out[..., 2], source[..., 2:5].sum(-1))
    torch.testing.assert_close(out[..., 3], source[..., 5])
    torch.testing.assert_close(out[..., -2:], target[..., -2:])  # padding without a counterpart in the source


def test_refine_uses_the_sources_attention_only_for_shared_words():
    out, source, target = edited("refine", "a cat runs", "a fluffy cat runs")
    torch.testing.assert_close(out[..., [0, 1, 3, 4, 5]], source[..., [0, 1, 2, 3, 4]])
    torch.testing.assert_close(out[..., 2], target[..., 2])


def test_reweight_scales_one_word_only():
    out, source, _ = edited("reweight", "a cat runs", "a cat runs", {"cat": 2.5})
    torch.testing.assert_close(out[..., 2], 2.5 * source[..., 2])
    torch.testing.assert_close(out[..., [0, 1, *range(3, LENGTH)]], source[..., [0, 1, *range(3, LENGTH)]])


def test_errors_name_the_words_that_do_not_fit():
    with pytest.raises(ValueError, match="2 words and the target prompt 3"):
        edited("replace", "a cat", "a fluffy cat")
    with pytest.raises(ValueError, match="'dog', which is not in the target"):
        edited("reweight", "a cat", "a cat", {"dog": 2})


def test_parse_weights():
    assert parse_weights(" fluffy: 2, red:0.5 ,") == {"fluffy": 2.0, "red": 0.5}
    assert parse_weights("") == {}
    with pytest.raises(ValueError, match="'fluffy 2'"):
        parse_weights("red: 1, fluffy 2")


def test_attention_equals_torchs_attention():
    q, k, v = torch.randn(2, 9, 8), torch.randn(2, LENGTH, 8), torch.randn(2, LENGTH, 8)
    heads = [t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(apply_attention(attention_probabilities(q, k, 2), v), expected)


def test_local_blend_keeps_the_source_where_neither_word_has_attention():
    """The source attends to its word in the top left corner, the target in the bottom right corner."""
    blend = LocalBlend(([2], [3]), frames=2, size=(8, 8))
    probabilities = torch.zeros(4, 1, 64, LENGTH)
    probabilities[:2, :, 0, 2] = 1
    probabilities[2:, :, 63, 3] = 1
    blend.add_attention(probabilities[[0, 2]], [0])
    blend.add_attention(probabilities[[1, 3]], [1])
    out = blend(torch.zeros(2, 4, 16, 16), torch.ones(2, 4, 16, 16))
    expected = torch.zeros(16, 16)
    expected[:4, :4] = expected[-4:, -4:] = 1  # a cell and its adjacent cells, two pixels each
    torch.testing.assert_close(out, expected.expand(2, 4, 16, 16))
