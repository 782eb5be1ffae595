"""Import rules of each folder, and calls that the pack must never make, checked in the source."""

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
CORE, HOST, NODES = ROOT / "bivdiff_core", ROOT / "bivdiff_core" / "host", ROOT / "nodes"
PACK = [ROOT / "__init__.py", *sorted(CORE.rglob("*.py")), *sorted(NODES.rglob("*.py"))]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
COMFYUI |= {"node_helpers", "nodes", "server"}
HEAVY = {"diffusers", "kornia", "matplotlib", "transformers"}
LIBRARIES = HEAVY | {"PIL", "av", "einops", "numpy", "safetensors", "torch", "tqdm"}

BATCH_LIBRARIES = {"aiohttp", "av", "comfy_cli", "psutil", "ray", "tqdm"}
"""ComfyUI has them, except comfy-cli and Ray, which batch/ can do without."""

MAY_IMPORT = {
    "batch": set(),
    "bivdiff_core": set(),
    "nodes": {"bivdiff_core"},
    "research": {"batch", "bivdiff_core", "fixtures", "tools"},
    "tools": {"batch", "bivdiff_core", "fixtures", "research"},
}
"""Folders that each folder may import. tests and dev.py may import all; nothing imports them."""
FOLDERS = {*MAY_IMPORT, "dev", "fixtures", "tests"}

every_file = pytest.mark.parametrize("file", PACK, ids=lambda file: str(file.relative_to(ROOT)))


def imported_packages(node: ast.AST) -> list[str]:
    """Top-level packages of an absolute import; empty for other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module.split(".")[0]]
    return []


def imports(tree: ast.AST) -> set[str]:
    """Packages that are imported anywhere in a tree."""
    return {name for node in ast.walk(tree) for name in imported_packages(node)}


def nodes_run_at_start_up(tree: ast.AST) -> Iterator[ast.AST]:
    """The syntax nodes that run when a module is imported: no function bodies, no `if TYPE_CHECKING` blocks."""
    if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from nodes_run_at_start_up(child)


def imports_at_start_up(tree: ast.AST) -> set[str]:
    """Packages that are imported when a module is imported."""
    return {name for node in nodes_run_at_start_up(tree) for name in imported_packages(node)}


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@every_file
def test_each_layer_imports_only_its_libraries(file):
    allowed = LIBRARIES | set(sys.stdlib_module_names)
    if HOST in file.parents:
        allowed |= COMFYUI
    elif CORE not in file.parents:
        allowed = COMFYUI | {"torch"} | set(sys.stdlib_module_names)
    assert imports(parse(file)) <= allowed


@every_file
def test_lower_layers_do_not_import_upper_layers(file):
    """The core imports neither `host` nor `nodes`; `host` does not import `nodes`. Resolves relative imports."""
    folder = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = (*folder[: len(folder) - node.level + 1], *(node.module or "").split("."))
            if CORE in file.parents:
                assert target[0] == "bivdiff_core"
            if HOST not in file.parents and CORE in file.parents:
                assert target[:2] != ("bivdiff_core", "host")


@pytest.mark.parametrize("folder", ["batch", "research", "tools"])
def test_a_folder_imports_only_what_it_may(folder):
    """In these folders `nodes` is ComfyUI's module."""
    for file in (ROOT / folder).rglob("*.py"):
        others = imports(parse(file)) & FOLDERS - {folder, "nodes"}
        assert others <= MAY_IMPORT[folder], file.relative_to(ROOT)


@every_file
def test_the_pack_imports_itself_relatively(file):
    """The pack's folder is not on ComfyUI's path, and ComfyUI has another module `nodes`."""
    assert not imports(parse(file)) & FOLDERS - {"nodes"}
    if NODES in file.parents or file.parent == ROOT:
        assert "nodes" not in imports(parse(file))


@pytest.mark.parametrize("file", sorted((ROOT / "batch").glob("*.py")), ids=lambda file: file.stem)
def test_batch_imports_itself_relatively_and_few_libraries(file):
    """It makes itself a package without a place on the path. One file runs in a process that has ComfyUI's modules."""
    comfyui = {"comfy", "folder_paths", "utils"} if file.stem == "inspect_comfyui" else set()
    assert imports(parse(file)) <= BATCH_LIBRARIES | comfyui | set(sys.stdlib_module_names)


@every_file
def test_start_up_imports_no_heavy_library(file):
    assert not imports_at_start_up(parse(file)) & HEAVY


def modules_at_start_up(file: Path) -> set[str]:
    """Dotted names that importing a module of the repository may import."""
    folder, found = file.relative_to(ROOT).parts[:-1], set()
    for node in nodes_run_at_start_up(parse(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = folder[: len(folder) - node.level + 1 if node.level else 0]
            base = ".".join([*relative, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def test_there_are_no_circular_imports():
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for folder in MAY_IMPORT
        for file in (ROOT / folder).rglob("*.py")
    }
    graph = {name: modules_at_start_up(file) & set(modules) - {name} for name, file in modules.items()}
    assert sum(map(len, graph.values())) > 300
    TopologicalSorter(graph).prepare()


def names_from_comfyui(tree: ast.AST) -> set[str]:
    """Full dotted names that a tree imports from ComfyUI, and of the attributes that it uses of them."""
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
    """The packages, modules and classes that contain a dotted name."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def full_names(table: dict[str, str]) -> set[str]:
    return {f"{module}.{name}" for module, names in table.items() for name in names.split()}


LISTED = full_names(REQUIRED_NAMES).union(*map(full_names, NEEDED_BY.values()))


def test_every_name_from_comfyui_is_looked_up_at_start_up():
    """The members of a listed class or enum need no entry."""
    used = set().union(*(names_from_comfyui(parse(file)) for file in PACK))
    used -= set().union(*map(owners, LISTED))
    assert not {name for name in used if not LISTED & {name, *owners(name)}}, "not in REQUIRED_NAMES or NEEDED_BY"
    assert not LISTED - used.union(*map(owners, used)), "listed but not used"


def collect_imported_files(file: Path) -> set[Path]:
    """A file of the pack and all files of the pack that it imports, at start-up or later."""
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


def test_a_missing_name_disables_only_the_nodes_that_need_it():
    """NEEDED_BY lists names that one or two node files use. Names used by more files are required by the whole pack."""
    users = {name: [] for name in LISTED}
    for file in sorted(NODES.glob("*.py")):
        if file.stem != "__init__":
            used = set().union(*(names_from_comfyui(parse(imported)) for imported in collect_imported_files(file)))
            for name in LISTED & used.union(*map(owners, used)):
                users[name].append(file.stem)
    expected = {name: " ".join(files) for name, files in users.items() if 1 <= len(files) <= 2}
    assert {name: files for files, table in NEEDED_BY.items() for name in full_names(table)} == expected


@every_file
def test_no_print_no_pickle_no_eval(file):
    calls = [ast.unparse(node) for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    forbidden = ("print(", "eval(", "exec(", "compile(", "__import__(", "os.system(")
    assert not [call for call in calls if call.startswith(forbidden)]
    assert not [call for call in calls if call.startswith("torch.load(") and "weights_only=True" not in call]
    assert not imports(parse(file)) & {"pickle", "subprocess", "urllib", "requests"}


@every_file
def test_warnings_are_not_only_logged(file):
    """The log's settings belong to all packs: `node_warnings.warn` also shows a warning on the node."""
    calls = [ast.unparse(node.func) for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    assert file.name == "node_warnings.py" or not [call for call in calls if call.endswith(".warning")]


@pytest.mark.parametrize(
    "file", [file for file in CORE.rglob("*.py") if ">>>" in file.read_text()], ids=lambda f: f.stem
)
def test_examples_in_docstrings_hold(file):
    module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0


def test_the_start_up_check_finds_exactly_the_imports_that_run():
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
