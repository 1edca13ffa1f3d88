"""The shared records: C and numpy agree on every byte, and each field is written by whom the header names."""

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stackcore
from stackcore.abi import _abi, abi
from stackcore.abi.layout import FIFO_HEADER, RING_HEADER, SEGMENT_HEADER, Layout
from stackcore.kernel import c_function
from stackcore.warmup import private_stack
from tests.stackcore.writers import Store, c_stores, python_stores, stores, writer_of

PACKAGE = Path(stackcore.__file__).resolve().parent
ROOT = PACKAGE.parent
DTYPES = {
    "sc_event": abi.EVENT, "sc_stack": abi.STACK, "sc_telemetry": abi.TELEMETRY, "sc_worker": abi.WORKER,
    "sc_listener": abi.LISTENER, "sc_session": abi.SESSION, "sc_pending": abi.PENDING, "sc_epoll_event": abi.EPOLL_EVENT,
}  # fmt: skip


@pytest.fixture(scope="session")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a C compiler says of the header today: {record: {"size", "stride", "fields": {name: [offset, size]}}}.

    The names are numpy's; a field that C does not have, or a lost one, does not get past the compiler or the count.
    """
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    lines = ["#include <stdio.h>", '#include "stackcore/abi/abi.h"', "int main(void) {", 'printf("{");']
    for record, dtype in DTYPES.items():
        lines.append(rf'printf("\"{record}\": {{\"size\": %zu, \"stride\": %zu", sizeof({record}), (size_t)SC_STRIDE({record}));')
        lines.append(r'printf(", \"fields\": {");')
        for i, name in enumerate(dtype.names or ()):
            comma = "," if i else ""
            lines.append(
                rf'printf("{comma}\"{name}\": [%zu, %zu]", offsetof({record}, {name}), sizeof((({record} *)0)->{name}));'
            )
        lines.append('printf("}}, ");')
    lines.append(r'printf("\"headers\": [%zu, %zu, %zu]}", sizeof(shmq_segment), sizeof(shmq_ring), sizeof(shmq_fifo));')
    lines.append("return 0; }")
    folder = tmp_path_factory.mktemp("abi")
    (folder / "layout.c").write_text("\n".join(lines))
    subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", f"-I{ROOT}", "-o", folder / "layout", folder / "layout.c"], check=True)
    found: dict[str, Any] = json.loads(subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout)
    return found


class TestLayout:
    def test_all_records_are_compared(self) -> None:
        assert set(DTYPES) == set(abi.RECORDS)

    @pytest.mark.parametrize("record", DTYPES)
    def test_numpy_and_the_compiler_agree_field_by_field(self, in_c: dict[str, Any], record: str) -> None:
        dtype = DTYPES[record]
        assert dtype.fields is not None
        ours = {name: [offset, kind.itemsize] for name, (kind, offset, *_) in dtype.fields.items()}
        assert ours == in_c[record]["fields"]

    @pytest.mark.parametrize("record", DTYPES)
    def test_fields_cover_the_record_without_gap_or_overlap(self, in_c: dict[str, Any], record: str) -> None:
        end = 0
        for offset, size in sorted(in_c[record]["fields"].values()):
            assert offset == end
            end += size
        assert end == in_c[record]["size"]

    def test_arrays_have_the_strides_of_c(self, in_c: dict[str, Any]) -> None:
        for record in ("sc_stack", "sc_telemetry", "sc_worker", "sc_listener", "sc_session"):
            assert DTYPES[record].itemsize == in_c[record]["stride"]
            assert DTYPES[record].itemsize % abi.LINE == 0
        for record in ("sc_event", "sc_pending", "sc_epoll_event"):
            assert DTYPES[record].itemsize == in_c[record]["size"]

    def test_headers_of_the_segment_its_rings_and_fifos(self, in_c: dict[str, Any]) -> None:
        assert in_c["headers"] == [SEGMENT_HEADER, RING_HEADER, FIFO_HEADER]

    @pytest.mark.parametrize("record", DTYPES)
    def test_array_fields_have_their_length(self, record: str) -> None:
        dtype = DTYPES[record]
        assert dtype.fields is not None
        for field in abi.RECORDS[record]:
            shape = dtype.fields[field.name][0].shape
            assert shape == ((field.length,) if field.length else ())

    def test_core_and_worker_never_share_a_line(self) -> None:
        for record in ("sc_worker", "sc_session"):
            lines: dict[str, set[int]] = {"core": set(), "worker": set()}
            for field in abi.RECORDS[record]:
                if field.writer in lines:
                    lines[field.writer].add(field.offset // abi.LINE)
            assert lines["core"] and lines["worker"]
            assert not lines["core"] & lines["worker"]


class TestConstants:
    def test_python_has_every_constant_of_the_header(self) -> None:
        for name, value in _abi.constants.items():
            assert getattr(abi, name) == value

    @pytest.mark.parametrize("prefix", ["EV_", "SESSION_", "WORKER_", "PHASE_", "SEEN_", "LISTEN_"])
    def test_values_of_one_kind_differ(self, prefix: str) -> None:
        values = [v for name, v in _abi.constants.items() if name.startswith(prefix)]
        assert len(values) >= 2
        assert len(set(values)) == len(values)


def test_an_event_written_by_c_is_read_by_numpy() -> None:
    with private_stack(Layout(workers=1, sessions=1, ring_slots=2, fifo_size=256)) as (_, view):
        handle = ctypes.create_string_buffer(64)
        at = view.ring_at(0, to_core=False)
        assert c_function("shmq_x_producer_bind", 3)(ctypes.addressof(handle), at, 1 << 16) == 0
        put = c_function("sc_x_event_put", 8)
        assert put(ctypes.addressof(handle), 0, abi.EV_RX, 3, 4, 5, 6, -7) == 0
        event = np.frombuffer((ctypes.c_char * 32).from_address(at + RING_HEADER), abi.EVENT)[0]
        fields = ("pos", "session", "generation", "seq", "type", "worker", "arg")
        assert [int(event[name]) for name in fields] == [0, 4, 5, 6, abi.EV_RX, 3, -7]


class TestWriters:
    """``core`` fields are stored only by the core's Python, ``worker`` fields only by the library's C."""

    CORE = sorted(p for folder in ("core", "session", "wire") for p in (PACKAGE / folder).rglob("*.py"))
    WORKER = sorted((PACKAGE / "vcl").glob("*.c"))

    @pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
    def test_the_core_writes_nothing_of_the_workers(self, path: Path) -> None:
        assert [s for s in stores(path) if writer_of(s) not in ("core", "once")] == []

    @pytest.mark.parametrize("path", WORKER, ids=lambda p: p.stem)
    def test_a_worker_writes_nothing_of_the_core(self, path: Path) -> None:
        assert [s for s in stores(path) if writer_of(s) != "worker"] == []

    def test_the_scan_sees_the_stores_there_are(self) -> None:
        """Were a scanner blind, the tests above would pass; so it must find what is known to be there."""
        core = {(s.record, s.field) for path in self.CORE for s in stores(path)}
        assert core >= {
            ("sc_session", "state"), ("sc_session", "owner"), ("sc_session", "generation"), ("sc_listener", "port"),
            ("sc_telemetry", "requests"), ("sc_telemetry", "heartbeat_ns"), ("sc_worker", "state"), ("sc_worker", "generation"),
        }  # fmt: skip
        worker = {(s.record, s.field) for path in self.WORKER for s in stores(path)}
        assert worker >= {("sc_session", "seen_seq"), ("sc_session", "seen_as"), ("sc_session", "seen_generation")}

    @pytest.mark.parametrize(
        "line",
        [
            'shw[worker]["accepted"] = 0',
            'st.shw[3]["requests"] += 1',
            'shs[s]["seen_seq"] = 4',
            "record = shs[s]\n    record['seen_as'] = 1",
            'shared, private = self.view.workers[worker], self.core.wrk[worker]\n    shared["stale"] = 0',
            'self.view.workers["waits"] = 0',
            'self.view.workers["waits"][2:4] = 0',
        ],
    )
    def test_a_violation_in_python_is_found(self, tmp_path: Path, line: str) -> None:
        planted = tmp_path / "planted.py"
        planted.write_text(f"def f(shs, shw, st, self, s, worker):\n    x = 1\n    {line}\n")
        found = stores(planted)
        assert [writer_of(s) for s in found] == ["worker"]
        assert found[0].line >= 3

    @pytest.mark.parametrize(
        "line",
        [
            "w->shared->state = 2;",
            "w->stack->size++;",
            "sc_session *s = sc_session_at(w->base, w->stack, 1);\n    s->owner = 3;",
            "sc_session *s = sc_session_at(w->base, w->stack, 1);\n    SC_STORE(s->state, 1);",
            "SC_STORE_RELEASE(w->shared->reply_seq, 1);",
            "sc_worker_at(w->base, w->stack, 2)->generation = 7;",
            "SC_STORE(sc_session_at(w->base, w->stack, 2)->seq, 7);",
            "sc_listener *l = listener(w);\n    l->port |= 1;",
        ],
    )
    def test_a_violation_in_c_is_found(self, tmp_path: Path, line: str) -> None:
        planted = tmp_path / "planted.c"
        planted.write_text(f"static void f(vcl_worker *w)\n{{\n    {line}\n}}\n")
        assert [writer_of(s) in ("core", "once") for s in stores(planted)] == [True]

    def test_what_is_no_store_is_not_found(self) -> None:
        assert python_stores('def f(shw, ses):\n    x = shw[0]["accepted"]\n    ses[0]["accepted"] = 1\n') == []
        assert c_stores("void f(vcl_session *s) {\n s->state = 1; /* w->shared->state = 2; */\n}\n") == []
        assert c_stores("int f(sc_session *s) {\n return s->state == 1 && SC_LOAD(s->seq) <= 3;\n}\n") == []

    def test_one_name_can_mean_two_things_in_two_functions(self) -> None:
        text = "void f(vcl_session *s) {\n s->owner = 1;\n}\nvoid g(sc_session *s) {\n s->owner = 1;\n}\n"
        assert c_stores(text) == [Store("sc_session", "owner", 5)]
