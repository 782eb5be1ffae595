"""The JavaScript files pass their linter."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_oxlint_finds_nothing():
    oxlint = shutil.which("oxlint", path=str(Path(sys.executable).parent))
    rules = ["-D", "correctness", "-D", "suspicious"]
    finished = subprocess.run([oxlint, *rules, "--deny-warnings", ROOT / "js"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
