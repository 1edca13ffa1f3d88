"""Print what pip must install before this project can be built without build isolation, one requirement a line.

usage: requirements.py [EXTRA ...]

Reads pyproject.toml, the one place where requirements are written: the build system's, the run time's and the extras'.
"""

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Return build, run-time and the named extras' requirements in that order."""
    pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    project = pyproject["project"]
    wanted = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
