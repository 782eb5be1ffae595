"""Fixtures for tests in several folders: the pack's archive, and a running ComfyUI server with the pack."""

import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from batch.comfyui_server import ComfyUIServer
from tools.in_process_comfyui import COMFYUI

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> zipfile.ZipFile:
    """The archive that `comfy node pack` makes of the tree, without ignored files. pyproject.toml is validated too."""
    tree = tmp_path_factory.mktemp("package") / "bivdiff"
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", *ignored))
    comfy = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node"]
    for command in ("pack", "validate"):  # "validate" is last because it leaves a cache behind
        subprocess.run([*comfy, command], cwd=tree, check=True, capture_output=True, timeout=600)
    with zipfile.ZipFile(tree / "node.zip") as file:
        yield file


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI server with the pack, and with loaders of tiny models (fixtures/packs)."""
    packs, base = ROOT / "tests" / "fixtures" / "packs", tmp_path_factory.mktemp("server")
    with ComfyUIServer(sys.executable, COMFYUI, base, cpu=True, extra_packs=[packs]) as server:
        yield server


class _ByFile(LoadScopeScheduling):
    """Run each file's tests in one process, so its fixtures are made once. All files that use the server share one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "server" if re.search(r"def \w+\(.*\bserver\b", (ROOT / file).read_text(encoding="utf-8")) else file


def pytest_xdist_make_scheduler(config, log) -> LoadScopeScheduling:
    """Distribute tests by file (tools/suite.py). pytest-xdist's own loadgroup does nothing under pytest 9.2."""
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Add the server's log to the report of a failed test, and what the server's threads do, in case it hangs."""
    report = yield
    if report.failed and "server" in item.funcargs:
        server = item.funcargs["server"]
        if hasattr(signal, "SIGUSR1"):  # not on Windows
            server._process.send_signal(signal.SIGUSR1)  # batch/exit_with_parent.py
            time.sleep(1)
        report.sections.append(("ComfyUI's log", server.log[-20000:]))
    return report
