"""Help pages and Chinese names: there for every node, and true to its schema."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "js" / "docs"
LARGEST_PICTURE = 80_000
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas(pack) -> dict:
    return {node_id: pack.classes[node_id].GET_SCHEMA() for node_id in pack.node_ids}


def named_controls(page: str) -> set[str]:
    """What a page sets in bold: inputs and outputs of its node."""
    return {name for bold in re.findall(r"\*\*(.+?)\*\*", page) for name in re.split("[、,] ?", bold)}


def test_every_node_has_its_pages_and_names(schemas):
    assert {page.stem for page in PAGES.glob("*.md")} == set(schemas)
    assert {page.parent.name for page in PAGES.glob("*/zh.md")} == set(schemas)
    assert set(CHINESE) == set(schemas)


def test_pages_name_what_there_is(schemas):
    for node_id, schema in schemas.items():
        page = (PAGES / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema.display_name}\n"), node_id
        names = {item.id for item in schema.inputs} | {item.display_name for item in schema.outputs}
        assert named_controls(page) <= names, node_id


def messages() -> str:
    """All strings of the pack's source, what they are filled with at run time as "...", in lower case."""
    found = []
    for file in [*(ROOT / "bivdiff_core").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found).lower()


def test_quoted_messages_exist():
    """What the tables of troubles and the README quote as a message; numbers and "..." stand for anything."""
    known, quoted = messages(), []
    for page in [ROOT / "README.md", *PAGES.glob("*.md")]:
        heads = re.findall(r"^(?:\| |- \*\*)(\".+?)(?: \||\*\*)", page.read_text(encoding="utf-8"), re.MULTILINE)
        quoted += [(page.name, quote) for head in heads for quote in re.findall(r'"(.+?)"', head)]
    assert len(quoted) > 20
    assert [(page, quote) for page, quote in quoted if re.sub(r"\d+", "...", quote.lower()) not in known] == []


def test_every_page_shows_a_small_picture(schemas):
    for node_id in schemas:
        for page in (PAGES / f"{node_id}.md", PAGES / node_id / "zh.md"):
            shown = re.findall(r"!\[.+]\((.+)\)", page.read_text(encoding="utf-8"))
            assert shown == [f"{node_id}.jpg"], page
        assert (PAGES / f"{node_id}.jpg").stat().st_size < LARGEST_PICTURE, node_id


def test_chinese_pages_name_what_there_is():
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
