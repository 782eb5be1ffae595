"""Every model class of ComfyUI is known: a new class in a newer ComfyUI fails here instead of surprising an artist."""

import comfy.supported_models

from tools import model_table

TESTED = {
    "image": "SD15 SD15_instructpix2pix SD20 SDXL Flux QwenImage",
    "video": "WAN21_T2V WAN21_I2V WAN21_FunControl2V WAN21_Vace WAN22_Animate WAN22_T2V LTXV LTXAV HunyuanVideo "
    "HunyuanVideo15 GenmoMochi",
}
"""Classes that tests run on a small network of the class, or on one with its layout."""

BY_RULE = {
    "image": "SDXL_instructpix2pix SDXLRefiner SSD1B KOALA_700M KOALA_1B Segmind_Vega SD21UnclipL SD21UnclipH SD3 "
    "AuraFlow PixArtAlpha PixArtSigma HunyuanDiT HunyuanDiT1 FluxInpaint FluxSchnell LongCatImage HunyuanImage21 "
    "ZImage Lumina2 HiDream Chroma Omnigen2 Boogu MageFlow Ideogram4 Flux2 Lens Kandinsky5Image ErnieImage "
    "ZImagePixelSpace PiD PixelDiTT2I HiDreamO1 ChromaRadiance JoyImage Krea2 Anima",
    "video": "SVD_img2vid HunyuanVideoI2V HunyuanVideoSkyreelsI2V Kandinsky5 WAN21_CausalAR_T2V WAN21_Camera "
    "WAN22_Camera WAN22_S2V WAN21_HuMo WAN21_SCAIL WAN21_SCAIL2 WAN22_WanDancer",
}
"""Classes whose latent format and kind of noise decide what they are; they were not run."""

REFUSED = "WAN21_FlowRVS CosmosT2V CosmosI2V CosmosT2IPredict2 CosmosI2VPredict2 CogVideoX_T2V CogVideoX_I2V \
CogVideoX_Inpaint Stable_Cascade_C Stable_Cascade_B"
"""Classes with another kind of noise, which the inversions refuse."""

NOT_OURS = "StableAudio StableAudio3 ACEStep ACEStep15 MiniMaxH3 Stable_Zero123 SV3D_u SV3D_p Hunyuan3Dv2 \
Hunyuan3Dv2mini Hunyuan3Dv2_1 TripoSplat LotusD SD_X4Upscaler HunyuanVideo15_SR_Distilled HunyuanImage21Refiner \
SeedVR2 RT_DETR_v4 SAM3 SAM31 DepthAnything3"
"""Audio, 3-D, upscalers, refiners, detectors."""


def test_every_class_is_listed_once():
    lists = [*TESTED.values(), *BY_RULE.values(), REFUSED, NOT_OURS]
    listed = [name for names in lists for name in names.split()]
    assert len(listed) == len(set(listed))
    assert {kind.__name__ for kind in comfy.supported_models.models} <= set(listed)


def test_image_models_have_frames_in_the_batch_or_are_known_by_class(pack):
    """The rule for all other models with a time axis is that they are video models."""
    families = pack.import_module("bivdiff_core.host.model_families")
    image = {*TESTED["image"].split(), *BY_RULE["image"].split()}
    kinds = {kind.__name__: kind for kind in comfy.supported_models.models}
    with_time_axis = {name for name in image & set(kinds) if kinds[name].latent_format.latent_dimensions == 3}
    assert with_time_axis <= families.IMAGE_MODELS_WITH_TIME_AXIS
    video = {*TESTED["video"].split(), *BY_RULE["video"].split()} - {"SVD_img2vid"}
    assert all(kinds[name].latent_format.latent_dimensions == 3 for name in video & set(kinds))


def test_the_table_of_pairs_says_what_is_tested():
    tested, rows = set(TESTED["video"].split()), model_table.VIDEO_MODELS
    assert {kind for row in rows if row.ran_on == model_table.SMALL for kind in row.kinds} == tested
    assert not {kind for row in rows if row.ran_on == model_table.NOTHING for kind in row.kinds} & tested
    assert not model_table.IMAGE_MODELS_NOT_RUN & set(TESTED["image"].split())
