"""Prompt2Prompt on the host against an implementation of its own on diffusers: the same weights, the same words."""

from functools import partial

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

STEPS, CFG, FRAMES = 5, 3.0, 3
SOURCE, TARGET = "a photograph of a cat", "a photograph of a dog"


class TinyTextModel(comfy.sd1_clip.SDClipModel):
    """Stable Diffusion 1.5's text encoder but for its size; the tokenizer is the real one."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        config = {
            "hidden_size": tiny_models.TEXT_WIDTH,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "hidden_act": "quick_gelu",
            "max_position_embeddings": 77,
            "eos_token_id": 49407,
        }
        super().__init__(device, textmodel_json_config=config, dtype=dtype, model_options=model_options or {})


class TinyClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device, dtype, model_options or {}, clip_model=TinyTextModel)


@pytest.fixture(scope="module")
def clip():
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, TinyClip)
    clip = comfy.sd.CLIP(target, parameters=1, model_options={"dtype": torch.float32})
    tiny_models.randomize(clip.cond_stage_model, seed=7)
    return clip


@pytest.fixture(scope="module")
def model():
    return tiny_models.sd_model()


@pytest.fixture(scope="module")
def latent():
    return {"samples": torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(8))}


def edit(pack, model, clip, latent, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Edited and reconstructed samples."""
    settings = {"source_prompt": SOURCE, "target_prompt": TARGET, "negative_prompt": "", **settings}
    outputs = tiny_models.run(
        pack, "BIVDiffPrompt2Prompt", model=model, clip=clip, latent=latent, steps=STEPS, cfg=CFG, **settings
    )
    return tuple(output["samples"] for output in outputs)


class ProbabilityEdit:
    """Attention by probabilities throughout: a reference that shares no code with the pack's patches."""

    def __init__(self, oracle, cross: bool):
        self.oracle, self.cross = oracle, cross

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))
        p = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        source, target = p[0], p[1]  # rows: source, target, negative, negative
        if self.cross:
            if self.oracle.blend_token is not None and p.shape[2] == 64:
                self.oracle.maps += torch.stack([source, target])[:, :, :, self.oracle.blend_token].sum(1)
            if self.oracle.step < self.oracle.cross_steps:
                target = source
        elif self.oracle.step < self.oracle.self_steps and p.shape[2] <= 16:
            target = source
        p = torch.stack([source, target, p[2], p[3]])
        return attn.to_out[0]((p @ v).transpose(1, 2).flatten(2))


class Oracle:
    """One frame's Prompt2Prompt with replaced words of one token each, on diffusers' UNet and DDIM scheduler."""

    def __init__(self, model, cross_steps: int, self_steps: int, blend_token: int | None):
        config = model.model.model_config.unet_config
        self.unet = UNet2DConditionModel(
            block_out_channels=(32, 32, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=tiny_models.TEXT_WIDTH,
            attention_head_dim=2,
        )
        weights = model.model.diffusion_model.state_dict()
        names = comfy.utils.unet_to_diffusers(config)
        self.unet.load_state_dict({name: weights[names[name]] for name in self.unet.state_dict()})
        self.unet.set_attn_processor(
            {name: ProbabilityEdit(self, "attn2" in name) for name in self.unet.attn_processors}
        )
        self.cross_steps, self.self_steps = cross_steps, self_steps
        self.blend_token = blend_token
        self.maps = torch.zeros(2, 64)

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """`[target, source]` from one frame's noise `[4, H, W]` and the text of source, target, negative, negative."""
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        )
        scheduler.set_timesteps(STEPS)
        z = torch.stack([z, z])
        for self.step, t in enumerate(scheduler.timesteps):
            cond, uncond = self.unet(torch.cat([z, z]), t, text).sample.chunk(2)
            z = scheduler.step(uncond + CFG * (cond - uncond), t, z).prev_sample
            if self.blend_token is not None and self.step >= 0.2 * STEPS:
                maps = self.maps.reshape(2, 1, 8, 8)
                maps = torch.nn.functional.max_pool2d(maps, 3, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
                mask = (maps / maps.amax((2, 3), keepdim=True) > 0.3).any(0).float()
                z = torch.stack([z[0], z[0] + mask * (z[1] - z[0])])
        return z.flip(0)


@pytest.mark.parametrize(
    ("cross", "self_", "words"), [(0.4, 0.0, ""), (0.0, 0.4, ""), (0.8, 0.4, ""), (0.4, 0.4, "cat dog")]
)
def test_equals_an_independent_implementation(pack, model, clip, latent, cross, self_, words, monkeypatch):
    module = pack.import_module("bivdiff_core.host.prompt2prompt")
    # The oracle injects at 4x4 and blends at 8x8: two sizes show which of them is used where.
    monkeypatch.setattr(module, "coarse_size", lambda *_: (8, 8) if words else (4, 4))
    texts = [clip.encode_from_tokens(clip.tokenize(text)) for text in (SOURCE, TARGET, "", "")]
    settings = {"cross_replace_steps": cross, "self_replace_steps": 0.0 if words else self_, "local_blend_words": words}
    outputs = edit(pack, model, clip, latent, **settings)
    for frame in range(FRAMES):
        oracle = Oracle(model, round(cross * STEPS), 0 if words else round(self_ * STEPS), 5 if words else None)
        expected = oracle(latent["samples"][frame], torch.cat(texts))
        made = torch.stack([output[frame] for output in outputs]) * 0.18215
        assert (made - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_and_a_split_of_cond_from_uncond_change_nothing(pack, model, clip, latent, chunk, monkeypatch):
    settings = {"local_blend_words": "cat dog", "frames_per_batch": chunk}
    whole = edit(pack, model, clip, latent, **{**settings, "frames_per_batch": FRAMES})
    calls = tiny_models.Calls()
    chunked = edit(pack, calls.on(model), clip, latent, **settings)
    monkeypatch.setattr(type(model), "get_free_memory", lambda *_: 0)
    split = tiny_models.Calls()
    alone = edit(pack, split.on(model), clip, latent, **settings)
    assert max(calls.rows) == 4 * chunk and max(split.rows) == 2 * chunk  # pairs, with and without the negative's
    for out in (chunked, alone):
        for made, expected in zip(out, whole, strict=True):
            assert (made - expected).norm() / expected.norm() < 1e-5


def test_without_replaced_steps_it_is_plain_sampling(pack, model, clip, latent):
    edited, reconstructed = edit(pack, model, clip, latent, cross_replace_steps=0.0, self_replace_steps=0.0)
    encode = partial(pack.run, "CLIPTextEncode", clip=clip)
    texts = [encode(text=text)[0][0] for text in (SOURCE, TARGET)]
    rows = [
        torch.cat([t.repeat_interleave(FRAMES, 0) for t in kind]) for kind in zip(*[t[:1] for t in texts], strict=True)
    ]
    pair = {"samples": latent["samples"].repeat(2, 1, 1, 1)}
    (plain,) = tiny_models.run(
        pack,
        "BIVDiffTemporalSmoother",
        model=model,
        positive=[[rows[0], {}]],
        negative=encode(text="")[0],
        latent=pair,
        steps=STEPS,
        cfg=CFG,
    )
    assert torch.equal(torch.cat([reconstructed, edited]), plain["samples"])


def test_identical_prompts_edit_nothing(pack, model, clip, latent):
    edited, reconstructed = edit(pack, model, clip, latent, target_prompt=SOURCE, local_blend_words="cat")
    torch.testing.assert_close(edited, reconstructed, rtol=1e-4, atol=1e-4)


def test_the_edit_is_felt(pack, model, clip, latent):
    edited, reconstructed = edit(pack, model, clip, latent)
    assert (edited - reconstructed).abs().mean() > 0.01 * reconstructed.abs().mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_blend_words": "cat horse"}, "'horse', which is in neither prompt"),
        ({"edit": "reweight", "word_weights": "cat: 2"}, "'cat', which is not in the target prompt"),
        ({"target_prompt": "a dog"}, "5 words and the target prompt 2"),
        ({"target_prompt": "a photograph of (a dog:1.2)"}, "weights in brackets"),
        ({"source_prompt": "cat " * 80}, "longer than one section of 75 tokens"),
    ],
)
def test_words_that_do_not_fit_are_told_before_any_model_call(pack, model, clip, latent, settings, message):
    calls = tiny_models.Calls()
    with pytest.raises(ValueError, match=message):
        edit(pack, calls.on(model), clip, latent, **settings)
    assert not calls.rows


def test_a_model_without_words_to_exchange_is_refused(pack, clip, latent):
    with pytest.raises(ValueError, match="Use an SD 1.5, SD 2 or SDXL model"):
        edit(pack, tiny_models.video_model(pack), clip, latent)
