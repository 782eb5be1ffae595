"""Results that outlive an interruption."""

import json
from collections.abc import Callable
from pathlib import Path


class Records:
    """A file of one JSON line for each result, found again by what it is a result of. Remove it to measure anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.found = dict(map(json.loads, lines))

    def get(self, key: str, make: Callable[[], dict]) -> dict:
        """The result of that name, made now if there is none yet."""
        if key not in self.found:
            self.found[key] = make()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.found[key]]) + "\n")
        return self.found[key]
