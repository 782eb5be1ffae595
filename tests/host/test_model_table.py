"""The table of pairs in docs/models.md equals the code."""

from research.page_tables import ROOT, fill_page
from tools import model_table


def test_the_page_has_the_table(pack):
    families = pack.import_module("bivdiff_core.host.model_families")
    page = (ROOT / model_table.PAGE).read_text(encoding="utf-8")
    assert page == fill_page(model_table.PAGE, {model_table.BLOCK: model_table.render_table(families)})


def test_every_family_of_video_models_is_in_the_table(pack):
    families = pack.import_module("bivdiff_core.host.model_families").FAMILIES
    assert {family.name for family in families if family.is_video} == {row.family for row in model_table.VIDEO_MODELS}
