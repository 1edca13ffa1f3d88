"""stackcore: a user-space host stack's inter-process path, as a product and as an instrument.

``stackcore.run(workload, **modes)`` makes one run and returns its result; the command line is ``stackcore --help``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Importing numpy starts BLAS threads, and a process with threads must not fork.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
__all__ = ["__version__", "run"]

if TYPE_CHECKING:
    from stackcore.runner import run


def __getattr__(name: str) -> Any:
    """``stackcore.run`` loads the stack at its first use: importing the package alone stays cheap."""
    if name == "run":
        import importlib

        module = importlib.import_module("stackcore.runner")
        return module.run
    raise AttributeError(f"module 'stackcore' has no attribute {name!r}")
