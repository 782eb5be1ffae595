"""Prompt2Prompt against an independent implementation on diffusers, with the same weights and prompts."""

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.text_encoders.sd2_clip
import comfy.utils
import pytest
import torch
from diffusers import DDIMScheduler
from fixtures import fake_packs, tiny_models
from fixtures.fake_animatediff import apply_evolved_sampling
from fixtures.frame_scenarios import CORE_WINDOWS
from fixtures.gaussian_mixture import assert_near

from research import toy_world

pytestmark = pytest.mark.floats

STEPS, CFG, FRAMES = 5, 3.0, 4
SOURCE, TARGET = "a photograph of a cat", "a photograph of a dog"


class TinyTextModel(comfy.sd1_clip.SDClipModel):
    """A small CLIP text encoder; the tokenizers are the real ones."""

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


class TinySD1Clip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device, dtype, model_options or {}, clip_model=TinyTextModel)


class TinySD2Clip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device, dtype, model_options or {}, clip_name="h", clip_model=TinyTextModel)


class TinySDXLClip(comfy.sdxl_clip.SDXLClipModel):
    """Two text encoders, and the pooled output of the second."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        torch.nn.Module.__init__(self)
        self.clip_l, self.clip_g = (TinyTextModel(device, dtype, model_options) for _ in range(2))
        self.dtypes = {dtype}


def tiny_clip(tokenizer, network) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(tokenizer, network)
    clip = comfy.sd.CLIP(target, parameters=1, model_options={"dtype": torch.float32})
    tiny_models.randomize(clip.cond_stage_model, seed=7)
    return clip


def sd1():
    return tiny_models.sd_model(), tiny_clip(comfy.sd1_clip.SD1Tokenizer, TinySD1Clip)


def sd2():
    """v prediction, linear projections, and a tokenizer that pads with another token."""
    model = tiny_models.sd_model(tiny_models.TinySDVelocity, use_linear_in_transformer=True)
    return model, tiny_clip(comfy.text_encoders.sd2_clip.SD2Tokenizer, TinySD2Clip)


def sdxl():
    """Two text encoders, and pooled text with the image size."""
    width = tiny_models.TEXT_WIDTH
    model = tiny_models.sd_model(
        tiny_models.TinySDXL,
        use_linear_in_transformer=True,
        context_dim=2 * width,
        num_classes="sequential",
        adm_in_channels=width + 6 * 256,
    )
    return model, tiny_clip(comfy.sdxl_clip.SDXLTokenizer, TinySDXLClip)


@pytest.fixture(scope="module", params=[sd1, sd2, sdxl], ids=lambda make: make.__name__)
def architecture(request):
    """MODEL and CLIP of a supported architecture."""
    return request.param()


@pytest.fixture(scope="module")
def sd15():
    return sd1()


@pytest.fixture(scope="module")
def model(sd15):
    return sd15[0]


@pytest.fixture(scope="module")
def clip(sd15):
    return sd15[1]


@pytest.fixture(scope="module")
def latent():
    return {"samples": torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(8))}


def edit(pack, model, clip, latent, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the node; return the edited and the reconstructed samples."""
    settings = {"source_prompt": SOURCE, "target_prompt": TARGET, "negative_prompt": "", **settings}
    outputs = pack.run(
        "BIVDiffPrompt2Prompt", model=model, clip=clip, latent=latent, **{"steps": STEPS, "cfg": CFG, **settings}
    )
    return tuple(output["samples"] for output in outputs)


class ProbabilityEdit:
    """Prompt2Prompt's attention on explicit probabilities, which shares no code with the pack's patches."""

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
    """Prompt2Prompt of one frame with single-token replacements, on diffusers' UNet and DDIM scheduler.

    Its levels are those of ComfyUI's ddim_uniform.
    """

    def __init__(self, model, cross_steps: int, self_steps: int, blend_token: int | None, blend_from: float = 0.2):
        self.unet = tiny_models.diffusers_unet(model)
        self.unet.set_attn_processor(
            {name: ProbabilityEdit(self, "attn2" in name) for name in self.unet.attn_processors}
        )
        self.cross_steps, self.self_steps = cross_steps, self_steps
        self.blend_token = blend_token
        self.blend_from = blend_from
        self.maps = torch.zeros(2, 64)
        self.changed = []  # share of the image that each step's blend takes from the target

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """`[target, source]` from one frame's noise `[4, H, W]` and the text of source, target, negative, negative."""
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        )
        scheduler.set_timesteps(STEPS)
        z, text = torch.stack([z, z]).double(), text.double()
        for self.step, t in enumerate(scheduler.timesteps):
            cond, uncond = self.unet(torch.cat([z, z]), t, text).sample.chunk(2)
            z = scheduler.step(uncond + CFG * (cond - uncond), t, z).prev_sample
            if self.blend_token is not None and self.step >= self.blend_from * STEPS:
                maps = self.maps.reshape(2, 1, 8, 8)
                maps = torch.nn.functional.max_pool2d(maps, 3, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
                mask = (maps / maps.amax((2, 3), keepdim=True) > 0.3).any(0).float()
                self.changed.append(mask.mean().item())
                z = torch.stack([z[0], z[0] + mask * (z[1] - z[0])])
        return z.flip(0)


@pytest.fixture(scope="module")
def uneven_attention_model():
    """A MODEL with uneven attention to words: its queries are six times as large."""
    model = tiny_models.sd_model()
    for name, layer in model.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_q"):
            layer.weight.mul_(6)
    return model


@pytest.mark.parametrize(
    ("cross", "self_", "words"), [(0.4, 0.0, ""), (0.0, 0.4, ""), (0.8, 0.4, ""), (0.4, 0.4, "cat dog")]
)
def test_equals_an_independent_implementation(pack, uneven_attention_model, clip, latent, cross, self_, words):
    """Injection at 4x4, a quarter of the latent's side; the blend at 8x8, the smallest supported size."""
    texts = [clip.encode_from_tokens(clip.tokenize(text)) for text in (SOURCE, TARGET, "", "")]
    settings = {"cross_replace_steps": cross, "self_replace_steps": self_, "local_blend_words": words}
    outputs = edit(pack, uneven_attention_model, clip, latent, scheduler="ddim_uniform", **settings)
    for frame in range(FRAMES):
        oracle = Oracle(uneven_attention_model, round(cross * STEPS), round(self_ * STEPS), 5 if words else None)
        expected = oracle(latent["samples"][frame], torch.cat(texts))
        made = torch.stack([output[frame] for output in outputs]) * 0.18215
        assert_near(made, expected, 1e-5)
        assert not words or min(oracle.changed) < 1  # the blend keeps a part of the source


def test_a_latent_of_the_released_inversion_is_blended_from_the_first_step(pack, uneven_attention_model, clip, latent):
    texts = [clip.encode_from_tokens(clip.tokenize(text)) for text in (SOURCE, TARGET, "", "")]
    first = uneven_attention_model.get_model_object("model_sampling").sigmas[801].item()
    released = tiny_models.make_inverted_latent(pack, latent["samples"], grid="reference", branch="image", sigma=first)
    settings = {"scheduler": "ddim_uniform", "local_blend_words": "cat dog"}
    outputs = edit(pack, uneven_attention_model, clip, released, **settings)
    for frame in range(FRAMES):
        oracle = Oracle(uneven_attention_model, round(0.4 * STEPS), round(0.4 * STEPS), 5, blend_from=0)
        expected = oracle(latent["samples"][frame], torch.cat(texts))
        made = torch.stack([output[frame] for output in outputs]) * 0.18215
        assert_near(made, expected, 1e-5)
        assert len(oracle.changed) == STEPS and min(oracle.changed) < 1


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_and_separate_cond_and_uncond_change_nothing(pack, architecture, latent, chunk, monkeypatch):
    model, clip = architecture
    settings = {"local_blend_words": "cat dog", "frames_per_batch": chunk}
    whole = edit(pack, model, clip, latent, **{**settings, "frames_per_batch": FRAMES})
    calls = tiny_models.CallCounter()
    chunked = edit(pack, calls.on(model), clip, latent, **settings)
    monkeypatch.setattr(type(model), "get_free_memory", lambda *_: 0)
    split = tiny_models.CallCounter()
    separate = edit(pack, split.on(model), clip, latent, **settings)
    assert (
        max(calls.rows) == 4 * chunk and max(split.rows) == 2 * chunk
    )  # pairs of source and target, with and without uncond
    for out in (chunked, separate):
        for made, expected in zip(out, whole, strict=True):
            assert made.shape == latent["samples"].shape
            assert_near(made, expected, 1e-5)


def test_without_replaced_steps_it_is_plain_sampling(pack, architecture, latent):
    model, clip = architecture
    edited, reconstructed = edit(pack, model, clip, latent, cross_replace_steps=0.0, self_replace_steps=0.0)
    (source,), (target,), (negative,) = (pack.run("CLIPTextEncode", clip=clip, text=t)[0] for t in (SOURCE, TARGET, ""))
    text, pooled = (
        torch.cat([t.repeat_interleave(FRAMES, 0) for t in pair])
        for pair in ((source[0], target[0]), (source[1]["pooled_output"], target[1]["pooled_output"]))
    )
    (plain,) = pack.run(
        "BIVDiffTemporalSmoother",
        model=tiny_models.as_video_model(model),
        positive=[[text, {"pooled_output": pooled}]],
        negative=[negative],
        latent={"samples": latent["samples"].repeat(2, 1, 1, 1)},
        steps=STEPS,
        cfg=CFG,
    )
    assert torch.equal(torch.cat([reconstructed, edited]), plain["samples"])


def image_prompts(model) -> torch.Tensor:
    """A vector for each frame, which an image prompt adds to a cross-attention."""
    width = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2.to_out[0].in_features
    return torch.randn(FRAMES, 1, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def add_image_prompts(model, index: tuple):
    """Image prompts through IP-Adapter's replacement, which selects the frames of a window.

    Args:
        index: () for keys of a whole block, as on SD 1.5; (0,) for keys of its first layer, as on SDXL.
    """
    images = image_prompts(model)

    def callback(out, q, k, v, options, **kwargs):
        window, rows = options.get("ad_params"), len(q) // len(options["cond_or_uncond"])
        last = images[-1:].expand(max(rows - FRAMES, 0), -1, -1)  # without a window the last image repeats
        chosen = torch.cat([images, last])[:rows] if window is None else images[window["sub_idxs"]]
        return chosen.repeat(len(options["cond_or_uncond"]), 1, 1)

    model = model.clone()
    for block in (("input", 1), ("input", 3)):
        attention = fake_packs.load("fake_packs.ip_adapter").Attn2Replace(callback, sigma_start=1e9, sigma_end=0.0)
        model.set_model_attn2_replace(attention, *block, *index)
    return model


def add_after_attention(model) -> list:
    """Hooks that add the same image prompts to the same layers' results; without patches on the MODEL."""
    network, images = model.model.diffusion_model, image_prompts(model)
    return [
        block[1]
        .transformer_blocks[0]
        .attn2.to_out.register_forward_pre_hook(
            lambda layer, args: (args[0] + images.repeat(len(args[0]) // FRAMES, 1, 1),)
        )
        for block in (network.input_blocks[1], network.input_blocks[3])
    ]


@pytest.mark.parametrize("index", [(), (0,)], ids=["block", "layer"])
def test_image_prompts_and_the_edit_add_up(pack, architecture, latent, index):
    model, clip = architecture
    plain = edit(pack, model, clip, latent)
    hooks = add_after_attention(model)
    expected = edit(pack, model, clip, latent)
    for hook in hooks:
        hook.remove()
    assert (plain[0] - expected[0]).abs().mean() > 0.01 * plain[0].abs().mean()
    patched = add_image_prompts(model, index)
    for chunk in (FRAMES, 3, 1):
        for made, given in zip(edit(pack, patched, clip, latent, frames_per_batch=chunk), expected, strict=True):
            assert_near(made, given, 1e-5)


def test_an_unknown_replacement_is_named_in_chunks(pack, model, clip, latent, caplog):
    def unknown_attention(q, k, v, options):
        return q

    patched = model.clone()
    patched.set_model_attn2_replace(unknown_attention, "input", 1)
    edit(pack, patched, clip, latent, frames_per_batch=FRAMES)
    assert "does not know" not in caplog.text
    edit(pack, patched, clip, latent, frames_per_batch=1)
    assert "this pack does not know: test_an_unknown_replacement_is_named_in_chunks" in caplog.text


def test_image_prompts_follow_the_device(pack, model):
    """ComfyUI moves a MODEL's patches to its device, and loads the models that they use."""
    moved = []

    class Adapter:
        def to(self, device):
            moved.append(device)
            return self

        def models(self):
            return ["image encoder"]

        def __call__(self, q, k, v, options):
            return q

    model = model.clone()
    model.set_model_attn2_replace(Adapter(), "input", 1)
    patches = pack.import_module("bivdiff_core.host.prompt_editing").AttentionPatches(None, 1, 0, 0, None, 0)
    patched = patches.patch(model)
    patched.model_patches_to(torch.device("cpu"))
    assert moved == [torch.device("cpu")]
    assert patched.model_patches_models() == ["image encoder"]
    replaced = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    assert not isinstance(replaced["input", 1], Adapter)


def test_identical_prompts_edit_nothing(pack, architecture, latent):
    edited, reconstructed = edit(pack, *architecture, latent, target_prompt=SOURCE, local_blend_words="cat")
    torch.testing.assert_close(edited, reconstructed, rtol=1e-4, atol=1e-4)


def test_the_edit_has_an_effect(pack, architecture, latent):
    edited, reconstructed = edit(pack, *architecture, latent)
    assert (edited - reconstructed).abs().mean() > 0.01 * reconstructed.abs().mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_blend_words": "cat horse"}, "'horse', which is in neither prompt"),
        ({"edit": "reweight", "word_weights": "cat: 2"}, "'cat', which is not in the target prompt"),
        ({"target_prompt": "a dog"}, "5 words and the target prompt 2"),
        ({"target_prompt": "a photograph of (a dog:1.2)"}, "weights in brackets"),
        ({"source_prompt": "cat " * 80}, "longer than 75 tokens"),
    ],
)
def test_invalid_words_raise_an_error_before_any_model_call(pack, model, clip, latent, settings, message):
    calls = tiny_models.CallCounter()
    with pytest.raises(ValueError, match=message):
        edit(pack, calls.on(model), clip, latent, **settings)
    assert not calls.rows


def test_an_unsupported_model_is_rejected(pack, clip, latent):
    with pytest.raises(ValueError, match="Use an SD 1.5, SD 2 or SDXL model"):
        edit(pack, tiny_models.video_model(pack), clip, latent)


def test_a_latent_of_another_models_space_is_rejected(pack, model, clip, latent):
    inverted = tiny_models.make_inverted_latent(pack, latent["samples"], latent_format="SDXL")
    calls = tiny_models.CallCounter()
    with pytest.raises(ValueError, match="latent space SDXL, but this model's is SD15"):
        edit(pack, calls.on(model), clip, inverted)
    assert not calls.rows


@pytest.mark.parametrize("dim", [0, 2])
def test_windows_that_separate_frames_from_sources_are_rejected(pack, model, clip, latent, dim):
    (windowed,) = pack.run("ContextWindowsManual", model=model, **{**CORE_WINDOWS, "dim": dim})
    with pytest.raises(ValueError, match="would separate edited frames from their source frames"):
        edit(pack, windowed, clip, latent)


def test_out_of_memory_halves_pairs_down_to_one(pack, model, clip, latent):
    """A frame and its source stay in one call, and the smallest chunk is tried once."""

    class Full(tiny_models.CallCounter):
        def __call__(self, apply_model, args):
            self.rows.append(len(args["input"]) // len(args["c"]["transformer_options"]["cond_or_uncond"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    calls = Full()
    with pytest.raises(torch.OutOfMemoryError):
        edit(pack, calls.on(model), clip, latent, frames_per_batch=FRAMES)
    halves = [FRAMES]
    while halves[-1] > 1:
        halves.append(halves[-1] // 2)
    assert calls.rows == [2 * frames for frames in halves]


def test_animatediff_is_rejected(pack, model, clip, latent):
    """Its motion would mix sources with targets."""
    with pytest.raises(ValueError, match="Prompt2Prompt Frame Editor: the model has AnimateDiff"):
        edit(pack, apply_evolved_sampling(model), clip, latent)


def test_frame_chunks_on_the_model_change_nothing(pack, model, clip, latent):
    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=3)
    for made, expected in zip(edit(pack, chunked, clip, latent), edit(pack, model, clip, latent), strict=True):
        assert torch.equal(made, expected)


def test_local_blend_keeps_the_source_outside_its_words(pack):
    """On the demo models the shape changes; most latent pixels outside it are bit-equal to the source."""
    toy_clip = toy_world.packaged_clip()
    model, _, clip, vae, _ = pack.run("BIVDiffDemoModels", variant="base")
    source = "a yellow sailboat over a blue sea, patterned"
    (frames,) = pack.run("VAEEncode", vae=vae, pixels=toy_clip.frames)
    (conditioning,) = pack.run("CLIPTextEncode", clip=clip, text=source)
    steps = {"steps": 12, "scheduler": "ddim_uniform"}
    (inverted,) = pack.run(
        "BIVDiffInvertImage", model=model, conditioning=conditioning, latent=frames, solver="uni_inv", **steps
    )
    words = {
        "source_prompt": source,
        "target_prompt": source.replace("yellow", "pink"),
        "local_blend_words": "yellow pink",
    }
    edited, rebuilt = edit(pack, model, clip, inverted, **words, **steps)
    kept = (edited == rebuilt).all(dim=1)
    in_shape = torch.nn.functional.max_pool2d(toy_clip.masks[0][:, None], 8)[:, 0] > 0.01
    assert not kept[torch.nn.functional.avg_pool2d(toy_clip.masks[0][:, None], 8)[:, 0] > 0.99].any()
    assert kept[~in_shape].float().mean() > 0.4
