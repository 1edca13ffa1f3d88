"""Flags, switches and sizes: what is possible is accepted, everything else is one sentence that says what would be."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workloads
from stackcore import configuration
from stackcore.abi.layout import Layout
from stackcore.configuration import ConfigError, RunConfig, make, parse_size
from stackcore.registry import SWITCHES, Switch, UnknownMode, register
from workloads import docroot

RUN_SWITCHES = [name for name in SWITCHES if name.replace("-", "_") in RunConfig.__dataclass_fields__]


class TestSwitches:
    def test_every_switch_of_the_design_is_there(self) -> None:
        questions = {"listener", "lock", "events", "accept", "ring-full", "wait", "app", "trigger", "verify", "schedule"}
        assert questions <= set(SWITCHES)
        assert set(SWITCHES["listener"].choices) == {"shared-rwlock", "unlocked-shared", "duplicated"}
        assert set(SWITCHES["events"].choices) == {"two-queue", "bounded", "single-queue"}
        assert set(SWITCHES["lock"].choices) == {"spin-rw", "futex-rw"}
        assert set(SWITCHES["accept"].choices) == {"hash", "round-robin"}
        assert set(SWITCHES["ring-full"].choices) == {"block", "drop", "congest"}
        assert set(SWITCHES["wait"].choices) == {"spin", "adaptive", "park"}

    @pytest.mark.parametrize("name", RUN_SWITCHES)
    def test_every_choice_is_accepted_and_described(self, name: str) -> None:
        key = name.replace("-", "_")
        for choice in SWITCHES[name]:
            config = make(**{key: choice.name})
            assert getattr(config, key) == choice.name
            assert config.modes[name] == choice.name
            assert choice.doc
        assert getattr(RunConfig(), key) in SWITCHES[name].choices
        assert SWITCHES[name].default in SWITCHES[name].choices

    @pytest.mark.parametrize("name", RUN_SWITCHES)
    def test_an_unknown_choice_lists_the_known_ones(self, name: str) -> None:
        with pytest.raises(UnknownMode) as caught:
            make(**{name.replace("-", "_"): "no-such-thing"})
        text = str(caught.value)
        assert text.startswith(f"--{name} has no choice 'no-such-thing'")
        for choice in SWITCHES[name]:
            assert choice.name in text

    @pytest.mark.parametrize("name", RUN_SWITCHES)
    def test_a_slip_of_the_pen_is_guessed(self, name: str) -> None:
        for choice in SWITCHES[name]:
            with pytest.raises(UnknownMode, match="did you mean"):
                make(**{name.replace("-", "_"): choice.name + "e"})

    def test_a_choice_cannot_be_registered_twice(self) -> None:
        switch = Switch("colour", "which", "red")
        register(switch, "red", "like blood")(lambda: 0)
        register(switch, "blue", "like the sea")(lambda: 0)
        assert [(c.name, c.value) for c in switch] == [("red", 0), ("blue", 1)]
        with pytest.raises(ValueError, match="twice"):
            switch.add("red", "again")

    def test_workloads_are_found_by_name(self) -> None:
        assert workloads.load("http").__name__ == "workloads.http"
        with pytest.raises(UnknownMode, match="did you mean fanout"):
            workloads.load("fan-out")


class TestSizes:
    @given(st.integers(0, 2**60))
    def test_plain_numbers(self, n: int) -> None:
        assert parse_size(str(n)) == parse_size(n) == n

    @given(
        st.integers(0, 2**20), st.sampled_from("kKmMgG"), st.sampled_from(["", "B", "b", "iB", "ib"]), st.sampled_from(["", " "]),
    )  # fmt: skip
    def test_units(self, n: int, unit: str, tail: str, gap: str) -> None:
        assert parse_size(f"{n}{gap}{unit}{tail}") == n * {"k": 2**10, "m": 2**20, "g": 2**30}[unit.lower()]

    @given(st.integers(0, 2**22))
    def test_the_names_of_files_are_sizes(self, n: int) -> None:
        assert parse_size(docroot.name_of(n)) == n

    @given(st.text(max_size=12) | st.from_regex(r"\A[0-9.]{1,400}[kmg]?\Z"))
    def test_any_text_is_a_size_or_a_config_error(self, text: str) -> None:
        try:
            assert parse_size(text) >= 0
        except ConfigError as error:
            assert str(error)

    @pytest.mark.parametrize(
        "text", ["", "K", "-1", "1T", "0x10", "1e3", "one", "1 2", "1.3K", "0.5", "nan", "inf", "9" * 400 + ".5"]
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ConfigError):
            parse_size(text)

    def test_fractions_of_a_unit(self) -> None:
        assert parse_size("1.5K") == 1536
        assert parse_size("0.25M") == 256 * 1024


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "--workers must be 1..61, not 0"),
    ({"workers": -3}, "--workers must be 1..61"),
    ({"workers": 62}, "one bit per worker"),
    ({"clients": 0}, "--clients must be"),
    ({"clients": (1 << 20) + 1}, "--clients must be"),
    ({"size": -1}, "--size must be"),
    ({"size": "65M"}, "--size must be"),
    ({"size": "big"}, "no size"),
    ({"duration": 0}, "--duration must be"),
    ({"duration": math.nan}, "--duration must be"),
    ({"duration": math.inf}, "--duration must be"),
    ({"warmup": -1}, "--warmup must be"),
    ({"maxevents": 0}, "--maxevents must be"),
    ({"maxevents": 65537}, "--maxevents must be"),
    ({"frame": 0}, "--frame must be 1..256, not 0"),
    ({"frame": 257}, "a frame is a vector of at most 256"),
    ({"rate": -1}, "--rate must be"),
    ({"requests_per_connection": -1}, "--requests-per-connection must be"),
    ({"work_ns": -1}, "--work must be"),
    ({"timeout": 0}, "--timeout must be"),
    ({"seed": -1}, "--seed must be"),
    ({"seed": 2**63}, "--seed must be"),
    ({"ring": 0}, "--ring must be a power of two"),
    ({"ring": 1}, "--ring must be a power of two"),
    ({"ring": 1000}, "--ring must be a power of two"),
    ({"ring": 1 << 25}, "--ring must be a power of two"),
    ({"fifo": 100}, "--fifo must be a power of two"),
    ({"fifo": "128"}, "--fifo must be a power of two"),
    ({"fifo": "1G"}, "--fifo must be a power of two"),
    ({"clients": 64, "sessions": 63}, r"--sessions must be --clients \(64\)"),
    ({"sessions": 1 << 23}, "--sessions must be"),
    ({"no_such_flag": 1}, "unknown setting: no_such_flag"),
]


@pytest.mark.parametrize(("flags", "words"), IMPOSSIBLE, ids=lambda p: str(p) if isinstance(p, dict) else "")
def test_the_impossible_is_one_sentence(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"workers": 61}, {"frame": 1}, {"frame": 256}, {"size": 0}, {"size": "64M"}, {"ring": 2}, {"fifo": 256},
        {"clients": 64, "sessions": 64}, {"seed": 2**63 - 1}, {"maxevents": 1}, {"maxevents": 65536}, {"warmup": 0},
    ],
    ids=str,
)  # fmt: skip
def test_the_ends_of_the_ranges_are_possible(flags: dict[str, Any]) -> None:
    config = make(**flags)
    for name, value in flags.items():
        assert getattr(config, name) == (parse_size(value) if name == "size" else value)


class TestDefaults:
    def test_none_means_not_given(self) -> None:
        assert make(workers=None, size=None, name="n") == make(name="n")

    @pytest.mark.parametrize(("clients", "ring"), [(512, 256), (513, 256), (1023, 256), (1024, 512), (4, 2), (1, 2)])
    def test_the_ring_of_fanout_wraps(self, clients: int, ring: int) -> None:
        config = make(workload="fanout", clients=clients)
        assert (config.ring, config.trigger, config.maxevents) == (ring, "edge", 64)
        assert make(workload="fanout", clients=clients, ring=1024).ring == 1024

    def test_sessions_follow_the_clients(self) -> None:
        assert make().sessions == 1024
        assert make(clients=5000).sessions == 10_000

    def test_the_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STACKCORE_NAME", "mine")
        assert make().name == "mine"
        assert make(name="other").name == "other"
        monkeypatch.delenv("STACKCORE_NAME")
        assert make().name.startswith("run-")

    def test_a_master_takes_one_worker_record(self) -> None:
        assert configuration.MAX_APP_WORKERS == 61


class TestLayout:
    @given(
        st.integers(1, 62), st.integers(1, 5000), st.integers(1, 14), st.integers(8, 16), st.integers(0, 100_000),
        st.integers(1, 16),
    )  # fmt: skip
    def test_parts_follow_each_other_on_lines_of_their_own(
        self, workers: int, sessions: int, ring: int, fifo: int, app: int, listeners: int
    ) -> None:
        layout = Layout(workers, sessions, 1 << ring, 1 << fifo, app, listeners)
        o = layout.offsets
        order = ["telemetry_at", "workers_at", "listeners_at", "sessions_at", "rings_at", "accept_at", "fifos_at", "app_at"]
        assert all(o[name] % 128 == 0 for name in [*order, "size", "ring_stride", "accept_stride", "fifo_stride"])
        assert all(o[a] < o[b] for a, b in itertools.pairwise(order))
        assert o["size"] - o["app_at"] == o["app_size"] >= app
        assert o["accept_at"] - o["rings_at"] == 2 * workers * o["ring_stride"]
        assert o["app_at"] - o["fifos_at"] == sessions * o["fifo_stride"]
        assert layout.accept_slots >= sessions

    @pytest.mark.parametrize(
        "wrong",
        [
            {"workers": 0}, {"workers": 63}, {"sessions": 0}, {"sessions": (1 << 24) + 1}, {"ring_slots": 3}, {"ring_slots": 1},
            {"fifo_size": 255}, {"fifo_size": 128}, {"listeners": 0}, {"listeners": 17},
        ],
        ids=str,
    )  # fmt: skip
    def test_impossible_ones(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="not"):
            Layout(**({"workers": 1, "sessions": 1, "ring_slots": 2, "fifo_size": 256} | wrong))
