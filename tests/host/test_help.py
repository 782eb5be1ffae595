"""Every node has help pages and Chinese names that match its schema."""

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "js" / "docs"
MAX_IMAGE_BYTES = 80_000
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))


def named_controls(page: str) -> set[str]:
    """The bold names of a page: inputs and outputs of its node."""
    return {name for bold in re.findall(r"\*\*(.+?)\*\*", page) for name in re.split("[、,] ?", bold)}


def test_every_node_has_its_pages_and_names(schemas):
    assert {page.stem for page in PAGES.glob("*.md")} == set(schemas)
    assert {page.parent.name for page in PAGES.glob("*/zh.md")} == set(schemas)
    assert set(CHINESE) == set(schemas)


def test_pages_name_existing_controls(schemas):
    for node_id, schema in schemas.items():
        page = (PAGES / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema.display_name}\n"), node_id
        names = {item.id for item in schema.inputs} | {item.display_name for item in schema.outputs}
        assert named_controls(page) <= names, node_id


def source_strings() -> list[str]:
    """All strings of the pack's source except docstrings; values filled in at run time are "..."."""
    found = []
    for file in [*(ROOT / "bivdiff_core").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]:
        if file.name == "required_names.py":  # names of ComfyUI's code
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
    return found


def test_quoted_messages_exist():
    """Messages quoted in README and in the help pages' tables; numbers and "..." match any value."""
    existing, quoted = "\n".join(source_strings()).lower(), []
    for page in [ROOT / "README.md", *PAGES.rglob("*.md")]:
        heads = re.findall(r"^(?:\| |- \*\*)(\".+?)(?: \||\*\*)", page.read_text(encoding="utf-8"), re.MULTILINE)
        quoted += [(str(page), quote) for head in heads for quote in re.findall(r'"(.+?)"', head)]
    assert len(quoted) > 20
    assert [(page, quote) for page, quote in quoted if re.sub(r"\d+", "...", quote.lower()) not in existing] == []


OTHER_NAMES = {
    *("Hugging Face", "Git LFS", "PyTorch Lightning", "Stable Diffusion", "Stable Video Diffusion"),
    *("Reference ControlNet", "Context Options", "Context Extras", "Sample Settings", "Standard Static"),
    *("Attention Guidance", "First Block Cache", "Video VAEs"),
    *("DejaVu Sans", "Last Resort", "Noto Sans CJK"),
}
"""Names of models, programs, fonts and other packs' nodes."""

LEADING_WORDS = r"^(?:(?:For|From|Give|In|Remove|Set|Take|The|Update|Wire) )+"


def test_nodes_named_in_messages_exist(schemas):
    """Consecutive capitalised words are part of the name of a node of ComfyUI or of this pack."""
    from nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    core = [node.GET_SCHEMA() for node in NODE_CLASS_MAPPINGS.values() if hasattr(node, "GET_SCHEMA")]
    shown = {schema.display_name or schema.node_id for schema in [*core, *schemas.values()]}
    shown = "\n".join(shown | set(NODE_DISPLAY_NAME_MAPPINGS.values()))
    word = r"(?:[A-Z][A-Za-z0-9]+|\([A-Z][a-z]+\))"
    named = {name for text in source_strings() for name in re.findall(rf"\b{word}(?: {word})+", text)}
    named = {name for name in (re.sub(LEADING_WORDS, "", name) for name in named) if " " in name}
    assert len(named) > 15
    assert {name for name in named - OTHER_NAMES if name not in shown} == set()


def test_every_page_shows_a_small_image(schemas):
    for node_id in schemas:
        for page in (PAGES / f"{node_id}.md", PAGES / node_id / "zh.md"):
            shown = re.findall(r"!\[.+]\((.+)\)", page.read_text(encoding="utf-8"))
            assert shown == [f"{node_id}.jpg"], page
        assert (PAGES / f"{node_id}.jpg").stat().st_size < MAX_IMAGE_BYTES, node_id


def test_chinese_pages_name_existing_controls():
    for node_id, words in CHINESE.items():
        page = (PAGES / node_id / "zh.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {words['display_name']}\n"), node_id
        slots = [*words["inputs"].values(), *words.get("outputs", {}).values()]
        assert named_controls(page) <= {slot["name"] for slot in slots}, node_id


def test_chinese_covers_the_schema(schemas):
    for node_id, schema in schemas.items():
        words = CHINESE[node_id]
        assert words["display_name"] and words["description"]
        assert list(words["inputs"]) == [item.id for item in schema.inputs], node_id
        assert list(words.get("outputs", {})) == [str(i) for i in range(len(schema.outputs))], node_id
        for slot in [*words["inputs"].values(), *words.get("outputs", {}).values()]:
            assert slot["name"] and slot["tooltip"], node_id
