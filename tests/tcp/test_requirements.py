"""docs/rfc9293.md keeps its promise: a row for each requirement of RFC 9293's appendix B, and each named test exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "rfc9293.md"
LAST = {"MUST": 69, "SHLD": 31, "REC": 1, "MAY": 18}
NUMBERS = [f"{kind}-{n}" for kind, last in LAST.items() for n in range(1, last + 1)]
"""All numbers of the appendix: none is left out there."""
SEGMENT_TESTS = ("open", "close", "data", "window", "timers", "recovery", "sack_segments", "options", "rst", "transitions")


def rows() -> dict[str, str]:
    """Requirement and last column; each requirement once."""
    found = re.findall(r"^\| ((?:MUST|SHLD|MAY|REC)-\d+) \| [^|]+ \| ([^|]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


@cache
def functions(file: str) -> dict[str, str]:
    """``Class::test`` or ``test`` of a test file, and its docstring with its class's."""
    tree = ast.parse((HERE / file).read_text())
    found = {}
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        above = (ast.get_docstring(node) or "") if isinstance(node, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                name = f"{node.name}::{function.name}" if isinstance(node, ast.ClassDef) else function.name
                found[name] = f"{above}\n{ast.get_docstring(function) or ''}"
    return found


def test_each_requirement_has_its_row() -> None:
    assert list(rows()) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_the_row_names_tests_or_a_reason(number: str) -> None:
    text = rows()[number]
    named = re.findall(r"`(test_\w+\.py)::([\w:]+)`", text)
    assert named or re.match(r"not (done|applicable): .", text)
    for file, name in named:
        assert name in functions(file), f"{number}: there is no {name} in {file}"


def test_the_other_documents_files_exist() -> None:
    files = set(re.findall(r"`(test_\w+\.py)`", DOCUMENT.read_text()))
    assert files and all((HERE / file).exists() for file in files)


@pytest.mark.parametrize("name", SEGMENT_TESTS)
def test_every_segment_test_cites_what_it_checks(name: str) -> None:
    """A section, rule, figure or requirement number, in the test's docstring or its class's."""
    cited = re.compile(r"[Ss]ection \d|[Rr]ules? \d|figure \d|(MUST|SHLD|MAY)-\d|RFC \d+|\bR1\b")
    silent = [test for test, text in functions(f"test_{name}.py").items() if not cited.search(text)]
    assert not [test for test in silent if not re.match(r"Test(Table|Diagram)::", test)]
