"""Every example runs, says what it should, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "shmq"
SAYS = {
    "ring": "10000 records, their sum is 24997500\n",
    "work_queue": "1000 squares, the last is 998001\n",
    "numpy_records": "5000 samples, their values add up to 2500\n",
    "asyncio_echo": "NO BUSY LOOP\n",
    "owner_died": "found [1, 0] half written, repaired\nnow [1, 1]\n",
    "by_name": "found it by name\n",
}


def run(script: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(script), *arguments], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str) -> None:
    assert run(EXAMPLES / f"{name}.py") == SAYS[name]
    assert [left for left in os.listdir("/dev/shm") if left.startswith("shmq-example")] == []


def test_queue_speed_compares_what_is_installed() -> None:
    said = run(EXAMPLES / "queue_speed.py", "--rounds", "1", "--seconds", "0.01")
    assert re.search(r"^shmq\.Queue +[\d,]+ objects/s   shmq is +1\.0 times", said, re.M)
    assert re.search(r"^multiprocessing\.Queue +[\d,]+ objects/s", said, re.M)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SAYS, "queue_speed"}


def test_the_readme_example_runs(tmp_path: Path) -> None:
    readme = (ROOT / "shmq" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert blocks
    for i, block in enumerate(blocks):
        script = tmp_path / f"block{i}.py"
        script.write_text(block)
        run(script)
