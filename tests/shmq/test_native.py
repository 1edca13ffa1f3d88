"""The C headers by themselves, compiled by the test: plain, with ThreadSanitizer, with Address- and UBSan, for AArch64.

ThreadSanitizer knows no fences; its builds make each half of a fence pair a read-modify-write of the word in question
(`shmq_store_then_fence` in common.h). So it checks the acquire/release pairs and the data they protect; the fences
themselves are checked by running the plain build with waits that have no time limit, where a lost wake-up hangs. gcc does
not instrument a memcpy that it expands itself, which is how most records are copied: hence -fno-builtin in those builds.
"""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "native"
ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", f"-I{HERE}", "-pthread"]
THREAD_SANITIZER = ["-O1", "-fsanitize=thread", "-fno-builtin"]
ADDR_NO_RANDOMIZE = 0x0040000

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def build(source: str, flags: list[str], out: Path, compiler: str | None = None) -> Path:
    program = out / source
    command = [compiler or str(COMPILER), *flags, *FLAGS, str(HERE / f"{source}.c"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, amount: int, fixed_addresses: bool = False, emulator: str | None = None) -> None:
    """Run a test program. ThreadSanitizer's shadow memory cannot live with many bits of address randomisation."""
    libc = ctypes.CDLL(None)
    done = subprocess.run(
        [*([emulator] if emulator else []), str(program), str(amount)],
        capture_output=True,
        text=True,
        timeout=150,
        preexec_fn=(lambda: libc.personality(ADDR_NO_RANDOMIZE)) if fixed_addresses else None,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "ok\n"
    assert done.stderr == ""


def supports(flag: str, out: Path) -> bool:
    source = out / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    return subprocess.run([str(COMPILER), flag, str(source), "-o", str(out / "probe")], capture_output=True).returncode == 0


AMOUNTS = {
    "ring_stress": 40_000,
    "channel_stress": 10_000,
    "fifo_stress": 100_000,
    "stream_stress": 100_000,
    "lock_stress": 20_000,
    "hostile": 3_000,
    "channel_hostile": 10_000,
    "ring_kill": 200,
    "channel_kill": 200,
    "stream_kill": 200,
    "event_kill": 200,
    "lock_kill": 40,
    "queue_stress": 8_000,
    "queue_kill": 240,
}


@needs_compiler
@pytest.mark.parametrize("source", AMOUNTS)
def test_plain(source: str, tmp_path: Path) -> None:
    run(build(source, ["-O2"], tmp_path), AMOUNTS[source])


@needs_compiler
@pytest.mark.parametrize(
    "source", ["ring_stress", "channel_stress", "fifo_stress", "stream_stress", "lock_stress", "queue_stress"]
)
def test_thread_sanitizer(source: str, tmp_path: Path) -> None:
    if not supports("-fsanitize=thread", tmp_path):
        pytest.skip("this compiler has no ThreadSanitizer")
    program = build(source, THREAD_SANITIZER, tmp_path)
    run(program, AMOUNTS[source] // 10, fixed_addresses=True)


@needs_compiler
@pytest.mark.parametrize("source", AMOUNTS)
def test_address_and_undefined_behaviour_sanitizer(source: str, tmp_path: Path) -> None:
    if not supports("-fsanitize=address,undefined", tmp_path):
        pytest.skip("this compiler has no AddressSanitizer")
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run(build(source, flags, tmp_path), AMOUNTS[source] // 4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("source", ["ring_kill", "channel_kill", "stream_kill", "event_kill", "queue_kill", "lock_kill"])
def test_a_thousand_deaths_at_every_step(source: str, tmp_path: Path) -> None:
    deaths_per_round = 2 if source == "lock_kill" else 1
    run(build(source, ["-O2"], tmp_path), 1000 // deaths_per_round)


def mutated(out: Path, header: str, old: str, new: str) -> str:
    """Copy the headers with one of them changed; the compiler's flag that makes them come first."""
    mutant = out / "shmq" / "native"
    shutil.copytree(ROOT / "shmq" / "native", mutant)
    text = (mutant / header).read_text()
    assert text.count(old) == 1
    (mutant / header).write_text(text.replace(old, new))
    return f"-I{out}"


@needs_compiler
@pytest.mark.parametrize(
    ("source", "header", "access"),
    [
        ("ring_stress", "ring.h", "&p->ring->tail, p->tail, memory_order_release"),
        ("ring_stress", "ring.h", "&c->ring->tail, memory_order_acquire"),
        ("ring_stress", "ring.h", "&c->ring->head, c->head, memory_order_release"),
        ("ring_stress", "ring.h", "&p->ring->head, memory_order_acquire"),
        ("channel_stress", "ring.h", "&p->ring->tail, p->tail, memory_order_release"),
        ("channel_stress", "ring.h", "&c->ring->head, c->head, memory_order_release"),
        ("stream_stress", "fifo.h", "&w->fifo->tail, pos, memory_order_release"),
        ("stream_stress", "fifo.h", "&r->fifo->tail, memory_order_acquire"),
        ("stream_stress", "fifo.h", "&r->fifo->head, r->pos, memory_order_release"),
        ("queue_stress", "queue.h", "&side->cursor, cursor, memory_order_release"),
        ("queue_stress", "mutex.h", "&m->owner, to, memory_order_seq_cst"),
        ("lock_stress", "lock.h", "&l->owner, 0, memory_order_release"),
        ("lock_stress", "lock.h", "&free, self, memory_order_acquire"),
    ],
)
def test_thread_sanitizer_would_find_a_missing_order(source: str, header: str, access: str, tmp_path: Path) -> None:
    """The check of the checker: with one access weakened to relaxed, the very same test must fail.

    Not here: the acquires of queue.h, of which every call makes more than one, so that the others order most runs.
    """
    if not supports("-fsanitize=thread", tmp_path):
        pytest.skip("this compiler has no ThreadSanitizer")
    relaxed = re.sub("memory_order_(release|acquire|seq_cst)", "memory_order_relaxed", access)
    program = build(source, [mutated(tmp_path, header, access, relaxed), *THREAD_SANITIZER], tmp_path)
    with pytest.raises(AssertionError, match="data race"):
        run(program, 2_000, fixed_addresses=True)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    shmq_queue_store(&side->items, shmq_queue_load(&side->next_items));\n", ""),  # never mended
        ("shmq_queue_load(&side->next_cursor))\n        return;", "shmq_queue_load(&side->next_cursor) + 1)\n        return;"),
    ],
)
def test_deaths_would_find_a_queue_that_is_not_mended(old: str, new: str, tmp_path: Path) -> None:
    """The check of the checker: the count of a message that a dead process had published stays wrong."""
    program = build("queue_kill", [mutated(tmp_path, "queue.h", old, new), "-O2"], tmp_path)
    with pytest.raises(AssertionError, match="failed"):
        run(program, 240)


@needs_compiler
@pytest.mark.parametrize(
    ("source", "header", "old", "new"),
    [
        ("lock_kill", "lock.h", "fetch_or_explicit(&l->word, SHMQ_RW_DIED,", "fetch_or_explicit(&l->word, 0,"),
        ("lock_kill", "mutex.h", "                rc = SHMQ_OWNER_DIED;", "                rc = SHMQ_OK;"),
        ("ring_kill", "ring.h", "store_explicit(&c->ring->head, c->head, ", "store_explicit(&c->ring->head, c->read, "),
    ],
)
def test_deaths_would_find_a_missing_report_and_a_lost_record(
    source: str, header: str, old: str, new: str, tmp_path: Path
) -> None:
    """The same for locks and rings: a death that nobody hears of, a release of what was only looked at."""
    program = build(source, [mutated(tmp_path, header, old, new), "-O2"], tmp_path)
    with pytest.raises(AssertionError, match="failed"):
        run(program, 240)


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="no AArch64 cross compiler")
@pytest.mark.parametrize("source", AMOUNTS)
def test_aarch64(source: str, tmp_path: Path) -> None:
    """The layout asserts hold there; where qemu's user emulation is installed the program runs, too (a little of it)."""
    program = build(source, ["-O2", "-static"], tmp_path, "aarch64-linux-gnu-gcc")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is not None:
        run(program, max(20, AMOUNTS[source] // 40), emulator=emulator)
