"""Print the files that belong to a list of packages, one path a line, relative to the source root.

usage: list_sources.py ROOT SUFFIXES FOLDER [FOLDER ...]     (SUFFIXES: comma-separated, for example .py,.pyi)

Meson asks for it at configure time, so that a new module needs no second entry in a meson.build. Build products and
results (`reports/latest`, `__pycache__`) are never listed. `make` configures again whenever the list has changed.
"""

import sys
from pathlib import Path

SKIPPED_FOLDERS = {"__pycache__", "latest", "reference"}
GENERATED = {"build_hash.h"}


def list_sources(root: Path, suffixes: tuple[str, ...], folders: list[str]) -> list[str]:
    """Return the sorted relative paths below `folders` whose names end in one of `suffixes`."""
    found = []
    for folder in folders:
        for path in (root / folder).rglob("*"):
            relative = path.relative_to(root)
            if path.name in GENERATED or SKIPPED_FOLDERS & set(relative.parts):
                continue
            if path.name.endswith(suffixes) and path.is_file():
                found.append(relative.as_posix())
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(list_sources(Path(sys.argv[1]), tuple(sys.argv[2].split(",")), sys.argv[3:])))
