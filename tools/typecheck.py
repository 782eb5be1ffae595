"""Check the pack's types: `python -m tools.typecheck`.

The pack is one package, named after its folder, and mypy rejects some folder names. So mypy checks a copy of the
sources in a folder with a valid name.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run mypy and return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (ROOT / "__init__.py", *ROOT.glob("bivdiff_core/**/*.py"), *ROOT.glob("nodes/*.py")):
            copy = Path(folder, "bivdiff", file.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
        return subprocess.call([*command, "--cache-dir", ROOT / ".mypy_cache", "-p", "bivdiff"], cwd=folder)


if __name__ == "__main__":
    sys.exit(main())
