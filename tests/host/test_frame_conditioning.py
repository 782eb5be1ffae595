"""Batch Conditioning: a batch of frames with a prompt for each equals one frame after the other."""

import pytest
import torch
from fixtures import tiny_models as tiny
from fixtures.frame_scenarios import noise, random
from fixtures.gaussian_mixture import assert_near, relative_error
from torch import Tensor

pytestmark = pytest.mark.floats

FRAMES = 3
CHUNKS = [0, 1, 2]
LATENTS = {
    "qwen": (FRAMES, 16, 1, 8, 8),
    "flux": (FRAMES, 16, 8, 8),
    "sd": (FRAMES, 4, 8, 8),
    "sdxl": (FRAMES, 4, 8, 8),
}
LENGTHS = {"qwen": (7, 4, 9), "sd": (4, 8, 6), "sdxl": (4, 8, 6)}
"""Different lengths of the frames' texts, for the models that can join them."""


@pytest.fixture(scope="module")
def models() -> dict:
    return {
        "qwen": tiny.qwen_model(),
        "flux": tiny.flux_model(),
        "sd": tiny.sd_model(),
        "sdxl": tiny.sd_model(tiny.TinySDXL, num_classes="sequential", adm_in_channels=2816),
    }


def make_prompts(kind: str, lengths: tuple[int, ...] = (7,) * FRAMES, first_seed: int = 0) -> list[list]:
    """A CONDITIONING for each frame, with what this kind of model reads for a frame."""

    def make_extra(seed: int) -> dict:
        references = [noise(1, *LATENTS[kind][1:], seed=seed), noise(1, *LATENTS[kind][1:-1], 6, seed=seed + 50)]
        return {
            "qwen": {"reference_latents": references, "pooled_output": None},
            "flux": {
                "reference_latents": references,
                "pooled_output": random(1, tiny.TEXT_WIDTH, seed=seed),
                "guidance": 2.0,
            },
            "sd": {},
            "sdxl": {"pooled_output": random(1, 1280, seed=seed), "width": 64, "height": 64},
        }[kind]

    return [
        tiny.text(1, length, tiny.TEXT_WIDTH, seed=first_seed + i, **make_extra(first_seed + i))
        for i, length in enumerate(lengths)
    ]


def batch(pack, prompts: list[list], model=None) -> list:
    return pack.run("BIVDiffBatchConditioning", conditioning=prompts, model=model and [model])[0]


def generate(pack, model, positive: list, negative: list, latent: dict, **inputs) -> Tensor:
    given = {"steps": 3, "cfg": 2.0, "seed": 4, "sampler_name": "euler", **inputs}
    texts = {"positive": positive, "negative": negative}
    return pack.run("BIVDiffFrameSampler", model=model, latent_image=latent, **texts, **given)[0]["samples"]


def invert(pack, model, prompt: list, samples: Tensor, **inputs) -> Tensor:
    given = {"conditioning": prompt, "latent": {"samples": samples}, "steps": 3, **inputs}
    return pack.run("BIVDiffInvertImage", model=model, **given)[0]["samples"]


def generate_one_by_one(pack, kind: str, model, positive: list[list], negative: list[list], **inputs) -> Tensor:
    """Each frame in a run of its own, with its part of the noise of the whole clip."""
    empty = torch.zeros(1, *LATENTS[kind][1:])
    return torch.cat(
        [
            generate(pack, model, *texts, {"samples": empty, "batch_index": [i]}, **inputs)
            for i, texts in enumerate(zip(positive, negative, strict=True))
        ]
    )


@pytest.mark.parametrize("frame_noise", ["independent", "progressive"])
@pytest.mark.parametrize("kind", LATENTS)
def test_generated_frames_equal_one_by_one(pack, models, kind, frame_noise):
    model, positive, negative = models[kind], make_prompts(kind), make_prompts(kind, first_seed=20)
    alone = generate_one_by_one(pack, kind, model, positive, negative, frame_noise=frame_noise)
    joined = batch(pack, positive), batch(pack, negative)
    latent = {"samples": torch.zeros(LATENTS[kind])}
    for frames_per_batch in CHUNKS:
        inputs = {"frame_noise": frame_noise, "frames_per_batch": frames_per_batch}
        assert_near(generate(pack, model, *joined, latent, **inputs), alone, 1e-5)
    first_for_all = generate(pack, model, positive[0], negative[0], latent, frame_noise=frame_noise)
    assert relative_error(first_for_all, alone) > 1e-3


@pytest.mark.parametrize("kind", LATENTS)
def test_inverted_frames_equal_one_by_one(pack, models, kind):
    model, prompts, clean = models[kind], make_prompts(kind), tiny.make_latent(*LATENTS[kind])["samples"]
    pairs = zip(prompts, clean.split(1), strict=True)
    alone = torch.cat([invert(pack, model, prompt, frame) for prompt, frame in pairs])
    for frames_per_batch in CHUNKS:
        whole = invert(pack, model, batch(pack, prompts), clean, frames_per_batch=frames_per_batch)
        assert_near(whole, alone, 1e-5)
    assert relative_error(invert(pack, model, prompts[0], clean), alone) > 1e-3


@pytest.mark.parametrize("kind", LENGTHS)
def test_texts_of_different_length(pack, models, kind):
    """Only positive differs in length."""
    model, positive, negative = models[kind], make_prompts(kind, LENGTHS[kind]), make_prompts(kind, first_seed=20)
    joined = batch(pack, positive, model), batch(pack, negative, model)
    clean = tiny.make_latent(*LATENTS[kind])["samples"]
    generated = generate_one_by_one(pack, kind, model, positive, negative)
    pairs = zip(positive, clean.split(1), strict=True)
    inverted = torch.cat([invert(pack, model, prompt, frame) for prompt, frame in pairs])
    for chunk in CHUNKS:
        latent = {"samples": torch.zeros(LATENTS[kind])}
        assert_near(generate(pack, model, *joined, latent, frames_per_batch=chunk), generated, 1e-5)
        assert_near(invert(pack, model, joined[0], clean, frames_per_batch=chunk), inverted, 1e-5)


def test_core_samplers_get_the_same_frames(pack, models):
    """With KSampler and Frame Chunks."""
    model = models["qwen"]
    positive, negative = make_prompts("qwen", LENGTHS["qwen"]), make_prompts("qwen", first_seed=20)
    alone = generate_one_by_one(pack, "qwen", model, positive, negative)
    (chunked,) = pack.run("BIVDiffFrameChunks", model=model, frames_per_batch=2)
    settings = {"seed": 4, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    texts = {"positive": batch(pack, positive, model), "negative": batch(pack, negative, model)}
    latent = {"samples": torch.zeros(LATENTS["qwen"])}
    (out,) = pack.run("KSampler", model=chunked, latent_image=latent, **texts, **settings)
    assert_near(out["samples"], alone, 1e-5)


def test_qwens_text_node_takes_the_frames_as_a_list(pack, models):
    """Given all frames at once, it makes one text of them."""
    frames, clip, vae = random(FRAMES, 64, 64, 3, seed=2), tiny.qwen_clip(), tiny.wan_vae()

    def encode(images: Tensor) -> list:
        (text,) = pack.run("TextEncodeQwenImageEdit", clip=clip, prompt="make it blue", image=images)
        (latent,) = pack.run("VAEEncode", pixels=images, vae=vae)
        return pack.run("ReferenceLatent", conditioning=text, latent=latent)[0]

    assert encode(frames)[0][0].shape[0] == 1
    (as_list,) = pack.run("RebatchImages", images=[frames], batch_size=[1])
    prompts = [encode(frame) for frame in as_list]
    negative, model = [tiny.text()] * FRAMES, models["qwen"]
    alone = generate_one_by_one(pack, "qwen", model, prompts, negative, steps=2)
    joined, latent = batch(pack, prompts), {"samples": torch.zeros(LATENTS["qwen"])}
    whole = generate(pack, model, joined, tiny.text(), latent, steps=2, frames_per_batch=2)
    assert_near(whole, alone, 1e-5)
    first_for_all = generate(pack, model, prompts[0], tiny.text(), latent, steps=2)
    assert relative_error(first_for_all, alone) > 1e-3


def test_several_prompts_for_a_frame_stay_apart(pack):
    frames = [[*tiny.text(seed=i, strength=0.5), *tiny.text(seed=10 + i, strength=1.0)] for i in range(FRAMES)]
    (first, first_extra), (second, second_extra) = batch(pack, frames)
    assert torch.equal(first, torch.cat([frame[0][0] for frame in frames])) and first_extra == {"strength": 0.5}
    assert torch.equal(second, torch.cat([frame[1][0] for frame in frames])) and second_extra == {"strength": 1.0}


# Refused


def make_nunchaku_qwen():
    """Nunchaku's network is a subclass of Qwen-Image's that does not read the mask (1.0.2, 2025-11-08)."""
    model = tiny.qwen_model()
    network = model.model.diffusion_model
    model.model.__class__ = type("NunchakuQwenImage", (type(model.model),), {})
    network.__class__ = type("NunchakuQwenImageTransformer2DModel", (type(network),), {})
    return model


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make_nunchaku_qwen, "NunchakuQwenImage"),
        (tiny.flux_model, "Flux"),
        (tiny.wan_model, "WAN21"),
        (tiny.hunyuan_model, "HunyuanVideo"),
    ],
)
def test_models_that_read_filling_tokens_are_refused_by_name(pack, make, name):
    with pytest.raises(ValueError, match=f"^Batch Conditioning: the prompts have 4 to 9 tokens, and {name} would read"):
        batch(pack, make_prompts("flux", (7, 4, 9)), make())


def test_different_lengths_need_the_model(pack):
    with pytest.raises(ValueError, match="the prompts have 4 to 9 tokens. Wire model"):
        batch(pack, make_prompts("sd", (7, 4, 9)))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([*tiny.text(), *tiny.text()], "some frames have 1 prompts and others 2. Combine prompts"),
        (tiny.text(1, 7, 16), "the prompts come from different text encoders"),
        (tiny.text(guidance=2.0), "the frames differ in guidance, which cannot have a row for each frame"),
        (tiny.text(pooled_output=torch.zeros(1, 8)), "the frames differ in pooled_output"),
    ],
)
def test_what_has_no_row_for_each_frame_is_refused(pack, second, message):
    with pytest.raises(ValueError, match=message):
        batch(pack, [tiny.text(), second])


def test_frames_of_different_size_are_refused(pack):
    references = [tiny.text(reference_latents=[noise(1, 16, 1, 8, width)]) for width in (8, 6)]
    with pytest.raises(ValueError, match="the size of reference_latents: 6x8 and 8x8. Scale all frames"):
        batch(pack, references)


def test_controls_are_wired_after_it(pack):
    hint = {"control_net": tiny.control_net(), "image": random(1, 64, 64, 3, seed=1)}
    texts = {"positive": tiny.text(), "negative": tiny.text()}
    frames = [pack.run("ControlNetApplyAdvanced", **texts, **hint, strength=1.0)[0] for _ in range(2)]
    with pytest.raises(ValueError, match="the frames differ in control.*ControlNet nodes take one hint for each frame"):
        batch(pack, frames)
