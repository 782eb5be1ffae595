"""What may import what, and what the pack must never do, read from the source."""

import ast
import doctest
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from bivdiff_core.host.compat.required_names import NEEDED_BY, REQUIRED_NAMES

ROOT = Path(__file__).resolve().parents[2]
CORE, HOST_SIDE, NODES = ROOT / "bivdiff_core", ROOT / "bivdiff_core" / "host", ROOT / "nodes"
PACK = [ROOT / "__init__.py", *sorted(CORE.rglob("*.py")), *sorted(NODES.rglob("*.py"))]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
COMFYUI |= {"node_helpers", "nodes", "server"}
LIBRARIES = {
    "PIL",
    "diffusers",
    "einops",
    "kornia",
    "matplotlib",
    "numpy",
    "safetensors",
    "skimage",
    "torch",
    "tqdm",
    "transformers",
}
HEAVY = {"diffusers", "kornia", "matplotlib", "skimage", "transformers"}

MAY_IMPORT = {
    "batch": set(),
    "bivdiff_core": set(),
    "nodes": {"bivdiff_core"},
    "research": {"batch", "bivdiff_core", "fixtures", "tools"},
    "tools": {"batch", "bivdiff_core", "fixtures", "research"},
}
"""Which other rooms each room may import; tests and dev.py may import all, and nothing imports them."""
ROOMS = {*MAY_IMPORT, "dev", "fixtures", "tests"}

files = pytest.mark.parametrize("file", PACK, ids=lambda file: str(file.relative_to(ROOT)))


def names(node: ast.AST) -> list[str]:
    """Top-level names of the packages that an absolute import takes from."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module.split(".")[0]]
    return []


def imports(tree: ast.AST) -> set[str]:
    """Packages that are imported anywhere in a tree."""
    return {name for node in ast.walk(tree) for name in names(node)}


def run_at_start_up(tree: ast.AST) -> Iterator[ast.AST]:
    """What loading a module runs: not what is inside functions, not what is for type checkers alone."""
    if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from run_at_start_up(child)


def imports_at_start_up(tree: ast.AST) -> set[str]:
    """Packages that loading a module imports."""
    return {name for node in run_at_start_up(tree) for name in names(node)}


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@files
def test_imports_keep_to_their_layer(file):
    allowed = LIBRARIES | set(sys.stdlib_module_names)
    if HOST_SIDE in file.parents:
        allowed |= COMFYUI
    elif CORE not in file.parents:
        allowed = COMFYUI | {"torch"} | set(sys.stdlib_module_names)
    assert imports(parse(file)) <= allowed


@files
def test_the_method_knows_nothing_of_what_stands_on_it(file):
    """A relative import, resolved: none leads from the method to ComfyUI's side, nor from there to the nodes."""
    here = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = (*here[: len(here) - node.level + 1], *(node.module or "").split("."))
            if CORE in file.parents:
                assert target[0] == "bivdiff_core"
            if HOST_SIDE not in file.parents and CORE in file.parents:
                assert target[:2] != ("bivdiff_core", "host")


@pytest.mark.parametrize("room", ["batch", "research", "tools"])
def test_a_room_imports_what_it_may(room):
    """There ``nodes`` is ComfyUI's module."""
    for file in (ROOT / room).rglob("*.py"):
        others = imports(parse(file)) & ROOMS - {room, "nodes"}
        assert others <= MAY_IMPORT[room], file.relative_to(ROOT)


@files
def test_the_pack_imports_itself_relatively(file):
    """The host does not have the pack's folder on its path, and its own ``nodes`` is another module."""
    assert not imports(parse(file)) & ROOMS - {"nodes"}
    if NODES in file.parents or file.parent == ROOT:
        assert "nodes" not in imports(parse(file))


@files
def test_start_up_imports_no_heavy_library(file):
    assert not imports_at_start_up(parse(file)) & HEAVY


def modules_at_start_up(file: Path) -> set[str]:
    """Dotted names of what loading a module of the tree may import."""
    here, found = file.relative_to(ROOT).parts[:-1], set()
    for node in run_at_start_up(parse(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level + 1 if node.level else 0], *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def test_modules_import_in_no_circle():
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for room in MAY_IMPORT
        for file in (ROOT / room).rglob("*.py")
    }
    graph = {name: modules_at_start_up(file) & set(modules) - {name} for name, file in modules.items()}
    assert sum(map(len, graph.values())) > 300
    TopologicalSorter(graph).prepare()


def names_from_comfyui(tree: ast.AST) -> set[str]:
    """What a tree imports from ComfyUI, and the attributes of what it has imported, in full."""
    imported, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                imported[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found |= {name for name in imported.values() if "." in name}
    for node in ast.walk(tree):
        root, _, rest = ast.unparse(node).partition(".") if isinstance(node, ast.Attribute) else ("", "", "")
        if root in imported and all(map(str.isidentifier, rest.split("."))):
            found.add(f"{imported[root]}.{rest}")
    return {name for name in found if name.split(".")[0] in COMFYUI}


def owners(name: str) -> set[str]:
    """The packages, modules and classes that a dotted name leads through."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def in_full(table: dict[str, str]) -> set[str]:
    return {f"{module}.{name}" for module, names in table.items() for name in names.split()}


LISTED = in_full(REQUIRED_NAMES).union(*map(in_full, NEEDED_BY.values()))


def test_every_name_from_comfyui_is_looked_up_at_start_up():
    """A class or an enum is; what it has comes with it."""
    used = set().union(*(names_from_comfyui(parse(file)) for file in PACK))
    used -= set().union(*map(owners, LISTED))
    assert not {name for name in used if not LISTED & {name, *owners(name)}}, "not in NEEDED"
    assert not LISTED - used.union(*map(owners, used)), "in NEEDED for nothing"


def with_imports(file: Path) -> set[Path]:
    """A file of the pack and all that it imports of the pack, at start-up or later."""
    found, waiting = set(), [file]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                targets = [base, *(base / alias.name for alias in node.names)]
                waiting += [target.with_suffix(".py") for target in targets if target.with_suffix(".py").is_file()]
    return found


def test_a_name_that_few_nodes_need_is_refused_for_them_alone():
    """One or two files of nodes; what more of them need is needed by the pack."""
    users = {name: [] for name in LISTED}
    for file in sorted(NODES.glob("*.py")):
        if file.stem not in ("__init__", "node", "controls"):
            used = set().union(*(names_from_comfyui(parse(imported)) for imported in with_imports(file)))
            for name in LISTED & used.union(*map(owners, used)):
                users[name].append(file.stem)
    expected = {name: " ".join(files) for name, files in users.items() if 1 <= len(files) <= 2}
    assert {name: files for files, table in NEEDED_BY.items() for name in in_full(table)} == expected


@files
def test_no_print_no_pickle_no_code_from_data(file):
    calls = [ast.unparse(node) for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    forbidden = ("print(", "eval(", "exec(", "compile(", "__import__(", "os.system(")
    assert not [call for call in calls if call.startswith(forbidden)]
    assert not [call for call in calls if call.startswith("torch.load(") and "weights_only=True" not in call]
    assert not imports(parse(file)) & {"pickle", "subprocess", "urllib", "requests"}


@pytest.mark.parametrize(
    "file", [file for file in CORE.rglob("*.py") if ">>>" in file.read_text()], ids=lambda f: f.stem
)
def test_examples_in_docstrings_hold(file):
    module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0


def test_the_start_up_check_sees_what_runs_and_nothing_else():
    source = """
import a
if TYPE_CHECKING:
    import b
try:
    import c
except ImportError:
    from d.e import f
class Node:
    import g
    def execute(self):
        import h
"""
    assert imports_at_start_up(ast.parse(source)) == {"a", "c", "d", "g"}
