"""Write the golden tables anew, after a change of behaviour that is meant:

    python -m tests.tcp.golden

Then look at the difference (``git diff tests/tcp/golden``) and say in the commit why each number may change.
"""

from tests.tcp.golden.table import TABLES, path, text

for name, rows in TABLES.items():
    path(name).write_text(text(list(rows())))
    print(f"wrote {path(name)}")
