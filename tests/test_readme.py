"""What the README shows in Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split("\n")[0])
def test_a_snippet_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 2
