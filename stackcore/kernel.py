"""Kernels: plain Python functions compiled by Numba, or run as they are with ``STACKCORE_JIT=0``.

Promise: a compiled kernel found in the cache was made from exactly these sources, against exactly this native
library, by exactly these compiler versions, for exactly this CPU. Numba's own cache looks only at the file of the
function itself; so the cache folder's name is a hash over everything else, too:
every source of ours that can hold kernels, plug-in sources, the native build hash, Python, numba, llvmlite and numpy
versions, CPU name and features. Folders are private (mode 0700) under ``$XDG_CACHE_HOME/stackcore``.

C functions are known by name to LLVM only after :func:`library` told their addresses, in every process anew; a name
that the library does not have is an ImportError here, because inside a cached kernel it would be a silent jump to
nowhere.

This module imports nothing of ours. Not thread safe while modules are being imported.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

JIT: bool = os.environ.get("STACKCORE_JIT", "1") != "0"
"""False when kernels run interpreted (debugging, coverage, property tests)."""

_symbols: dict[str, int] = {}
_build_hash: str | None = None
_cache_dir: Path | None = None
_plugins: dict[str, Path] = {}
_kernels: list[Any] = []


def library(symbols: Mapping[str, int], build_hash: str) -> None:
    """Make a native module's functions callable from kernels.

    ``symbols`` maps C names to addresses. Raises ImportError when the module comes from another build than the ones
    before it: the extension modules share headers and must be built together.
    """
    global _build_hash
    if _build_hash not in (None, build_hash):
        raise ImportError(f"native modules of two builds are mixed ({_build_hash} and {build_hash}): run make")
    _build_hash = build_hash
    _symbols.update(symbols)
    if JIT:
        import llvmlite.binding as llvm

        for name, address in symbols.items():
            llvm.add_symbol(name, address)


def _sources() -> Iterable[Path]:
    package = Path(__file__).resolve().parent
    for folder in (package, package.parent / "workloads"):
        yield from sorted(folder.rglob("*.py"))
    yield from _plugins.values()


def _key() -> str:
    import llvmlite
    import llvmlite.binding as llvm
    import numba
    import numpy

    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    facts = (
        str(_build_hash), *_plugins, sys.version, numba.__version__, llvmlite.__version__, numpy.__version__,
        platform.machine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(),
    )  # fmt: skip
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:24]


def cache_dir() -> Path:
    """The private folder of compiled and generated code for this exact configuration; made on first use."""
    global _cache_dir
    if _cache_dir is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stackcore"
        folder = base / (_key() if JIT else "interpreted")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = folder.stat()
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            raise PermissionError(f"{folder} must belong to you and be writable by you alone: compiled code runs from it")
        _cache_dir = folder
        if JIT:
            import numba

            numba.config.CACHE_DIR = str(folder)
    return _cache_dir


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call (cached on disk), or leave it alone with ``STACKCORE_JIT=0``.

    A kernel takes numpy (record) arrays, named tuples of them, and integers; it calls C through :func:`extern` and
    other kernels by their global name, never through a closure (closures miss the cache). The GIL is released in it.
    """
    if not JIT:
        return function
    if _build_hash is None:
        raise ImportError("stackcore.native must be imported before a module that holds kernels")
    import numba

    cache_dir()
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False)(function)
    compiled.get_call_template = _one_width(compiled.get_call_template)
    _kernels.append(compiled)
    return compiled


def _one_width(template: Callable[..., Any]) -> Callable[..., Any]:
    """Let kernels that call a kernel see one version of it: every integer argument is an int64.

    Numba would compile another for each mix of constants, int32 fields and int64 values that a caller passes.
    """
    from numba import types

    def widened(kind: Any) -> Any:
        kind = types.unliteral(kind)
        return types.int64 if isinstance(kind, types.Integer) else kind

    def get_call_template(arguments: Any, keywords: Any) -> Any:
        return template(tuple(map(widened, arguments)), {name: widened(kind) for name, kind in keywords.items()})

    return get_call_template


def c_function(name: str, arguments: int) -> Callable[..., int]:
    """The C function ``name``, which takes that many int64 and returns one, for ordinary Python code."""
    if name not in _symbols:
        raise ImportError(f"the native library has no function {name}: run make, or reinstall")
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(_symbols[name])


def extern(name: str, arguments: int) -> Callable[..., int]:
    """The same for use inside kernels, compiled or interpreted; about 2 ns a call when compiled."""
    function = c_function(name, arguments)
    if not JIT:
        return function
    from numba import types

    compiled: Callable[..., int] = types.ExternalFunction(name, types.int64(*[types.int64] * arguments))
    return compiled


def compose(name: str, choices: Iterable[tuple[str, str]], parameters: str, result: bool = True) -> Callable[..., Any]:
    """One kernel that calls the ``policy``-th of several.

    ``choices`` are (module, expression) pairs, the expression most often a function's name; ``parameters`` the
    comma-separated names they take; ``result`` False: they are called for their effect, and it returns 0. The branch is
    written as a module into the cache folder, because a closure over kernels would be compiled anew at every start.
    """
    lines = ["from stackcore.kernel import kernel"]
    body = ["", "", "@kernel", f"def {name}(policy, {parameters}):"]
    for i, (module, expression) in enumerate(choices):
        root = re.split(r"\W", expression)[0]
        lines += [f"from {module} import {root} as root_{i}", f"choice_{i} = root_{i}{expression.removeprefix(root)}"]
        call = f"choice_{i}({parameters})"
        body += [f"    if policy == {i}:", f"        return {call}" if result else f"        {call}\n        return 0"]
    body.append("    return -1")
    text = "\n".join(lines + body) + "\n"
    path = cache_dir() / f"composed_{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(text)
        part.replace(path)  # two processes may do this at once: whole files only
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module_object = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module_object
    spec.loader.exec_module(module_object)
    chosen: Callable[..., Any] = getattr(module_object, name)
    return chosen


def add_plugin(name: str, source: str | Path) -> None:
    """Kernels decorated from here on may call into ``source``: they are cached apart from those made without it.

    ``name`` says which part of the file is meant. Those decorated before keep their place: they do not call the plug-in.
    """
    global _cache_dir
    if name not in _plugins:
        _plugins[name] = Path(source)
        _cache_dir = None


def cache_statistics() -> tuple[int, int]:
    """(hits, misses) of the disk cache over all kernels of this process so far."""
    hits = misses = 0
    for compiled in _kernels:
        hits += sum(compiled.stats.cache_hits.values())
        misses += sum(compiled.stats.cache_misses.values())
    return hits, misses


def is_cold() -> bool:
    """True when nothing has been compiled for this configuration yet: the first call will take a while."""
    return JIT and not any(cache_dir().rglob("*.nbi"))
