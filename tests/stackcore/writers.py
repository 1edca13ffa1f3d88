"""Who writes which shared field: a scan of the sources, held against what ``abi.h`` says.

Python of the core side is read with :mod:`ast`, following local names that stand for a shared array; C of the app side
with regular expressions, function by function, following pointers by their declared type. Both look for stores only,
and both only see stores that name the field: a copy of a whole record would escape them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stackcore.abi.abi import RECORDS

ARRAYS: dict[str, str | None] = {
    "t.lis": None,  # TCP's own
    "shs": "sc_session", "shw": "sc_worker", "lis": "sc_listener", "tel": "sc_telemetry", "latency": "sc_telemetry",
    "view.sessions": "sc_session", "view.workers": "sc_worker", "view.listeners": "sc_listener", "view.telemetry": "sc_telemetry",
    "view.stack": "sc_stack",
}  # fmt: skip
POINTERS = {"w->shared": "sc_worker", "w->stack": "sc_stack"}


class Store(NamedTuple):
    """A store to a shared field, and where it stands."""

    record: str
    field: str
    line: int


def writer_of(store: Store) -> str:
    """core, worker, sender or once; "nobody" for a field that the record does not have."""
    return next((f.writer for f in RECORDS[store.record] if f.name == store.field), "nobody")


# ---- Python ----


def _array_of(node: ast.AST, names: dict[str, str]) -> str | None:
    """The record whose array (or element) ``node`` stands for."""
    if isinstance(node, ast.Subscript):
        return _array_of(node.value, names)
    if isinstance(node, ast.Name):
        return names.get(node.id, ARRAYS.get(node.id))
    if isinstance(node, ast.Attribute):
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        return ARRAYS.get(f"{owner}.{node.attr}", ARRAYS.get(node.attr))
    return None


def _field_of(target: ast.AST, names: dict[str, str]) -> tuple[str, str] | None:
    """(record, field) when ``target`` is ``array[i]["field"]``, possibly with further subscripts behind or between."""
    while isinstance(target, ast.Subscript):
        if isinstance(target.slice, ast.Constant) and isinstance(target.slice.value, str):
            record = _array_of(target.value, names)
            return (record, target.slice.value) if record else None
        target = target.value
    return None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """(target, value) of an assignment, tuples taken apart."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple):
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [None] * len(target.elts)
                yield from zip(target.elts, values, strict=False)
            else:
                yield target, node.value
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target, node.value


def python_stores(text: str) -> list[Store]:
    """Stores to shared fields in Python source, in any function or at the top."""
    tree, found = ast.parse(text), []
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for scope in [tree, *functions]:
        names: dict[str, str] = {}
        for node in ast.walk(scope):
            for target, value in _pairs(node):
                if isinstance(target, ast.Name) and value is not None and (record := _array_of(value, names)):
                    names[target.id] = record
        for node in ast.walk(scope):
            for target, _ in _pairs(node):
                if place := _field_of(target, names):
                    found.append(Store(*place, node.lineno))
    return sorted(set(found))


# ---- C ----

_DECLARED = re.compile(r"\b(sc_\w+)\s*\*\s*(?:const\s+)?(\w+)")
_STORE = re.compile(
    r"SC_STORE(?:_RELEASE)?\(\s*([\w>.\-]+?)->(\w+)\b(?!->)"
    r"|([\w>.\-]+?)->(\w+)(?:\[[^\]]*\])?\s*(?:=(?!=)|\+=|-=|\|=|&=|\+\+|--)"
    r"|(?:\+\+|--)([\w>.\-]+?)->(\w+)\b"
    r"|__atomic_store_n\(&([\w>.\-]+?)->(\w+)\b"
)
_CALL = re.compile(r"(?:SC_STORE(?:_RELEASE)?\(\s*)?(sc_\w+)_at\([^;{}]*?\)->(\w+)\s*(?:=(?!=)|\+=|-=|\+\+|--|,)")


def _functions(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each top-level definition, comments blanked out."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)
    start = 0
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.startswith("}") or i == len(lines) - 1:
            yield start + 1, "\n".join(lines[start : i + 1])
            start = i + 1


def c_stores(text: str) -> list[Store]:
    """Stores to shared fields in C source."""
    found = []
    for first, body in _functions(text):
        pointers = POINTERS | {name: record for record, name in _DECLARED.findall(body) if record in RECORDS}
        for match in _STORE.finditer(body):
            base, field = [g for g in match.groups() if g is not None]
            if base in pointers:
                found.append(Store(pointers[base], field, first + body.count("\n", 0, match.start())))
        for match in _CALL.finditer(body):
            if match[1] in RECORDS and (not match[0].endswith(",") or match[0].startswith("SC_STORE")):
                found.append(Store(match[1], match[2], first + body.count("\n", 0, match.start())))
    return sorted(set(found))


def stores(path: Path) -> list[Store]:
    text = path.read_text()
    return python_stores(text) if path.suffix == ".py" else c_stores(text)
