"""shmq.measure and `shmq bench`: what is wrong with a link is counted, and both processes end whatever happens."""

import collections
import json
import os

import pytest
from click.testing import CliRunner

from shmq import Ring
from shmq.benchmark import LINKS, RingLink, run
from shmq.cli import main
from shmq.measure import KINDS, MeasureError, Receiver, Sender, batch_size, measure, slots, two_cpus

SECONDS = 0.01


class Bent(RingLink):
    """A ring whose sender sends something else now and then: `bend` returns what goes in for the n-th message."""

    bend = staticmethod(lambda n, message: [message])

    def sender(self) -> Sender:
        sender = super().sender()
        pending: collections.deque[bytes] = collections.deque()
        number = iter(range(1 << 60))

        def send(message: bytes) -> bool:
            pending.extend(self.bend(next(number), message))
            while pending:
                while not sender.send(pending[0]):
                    pass
                pending.popleft()
            return True

        return Sender(send)


def bent(bend) -> dict:
    kind = type("Link", (Bent,), {"bend": staticmethod(bend)})
    return measure(lambda: kind(32), "single", 32, SECONDS)["errors"]


def test_a_good_link_has_no_errors():
    assert bent(lambda n, message: [message]) == {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": 0}


def test_a_lost_message_is_counted():
    errors = bent(lambda n, message: [] if n == 100 else [message])
    assert errors == {"lost": 1, "duplicate": 0, "misplaced": 1, "corrupt": 0}


def test_a_message_that_comes_twice_is_counted():
    errors = bent(lambda n, message: [message, message] if n == 100 else [message])
    assert errors == {"lost": 0, "duplicate": 1, "misplaced": 1, "corrupt": 0}


def test_a_wrong_byte_is_counted():
    errors = bent(lambda n, message: [message[:20] + b"?" + message[21:]] if n == 300 else [message])
    assert errors == {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": 1}


def test_a_link_that_loses_its_end_still_ends():
    errors = bent(lambda n, message: [] if message == b"\xff" * 32 else [message])
    assert errors == {"lost": 0, "duplicate": 0, "misplaced": 0, "corrupt": 0}


def test_a_wrong_byte_in_a_large_message_is_counted():
    kind = type("Link", (Bent,), {"bend": staticmethod(lambda n, message: [b"?" + message[1:]] if n == 3 else [message])})
    assert measure(lambda: kind(8192), "single", 8192, SECONDS)["errors"]["corrupt"] == 1


@pytest.mark.parametrize("kind", ["single", "busy", "idle"])
def test_an_end_that_raises_is_named(kind):
    class Raising(RingLink):
        def receiver(self) -> Receiver:
            raise OSError("no such thing")

    with pytest.raises(MeasureError, match=r"r: OSError: no such thing|the other end is gone"):
        measure(lambda: Raising(32), kind, 32, SECONDS)


def test_an_end_that_dies_is_noticed():
    class Dying(RingLink):
        def receiver(self) -> Receiver:
            os._exit(1)

    with pytest.raises(MeasureError):
        measure(lambda: Dying(32), "single", 32, SECONDS, timeout=3.0)


def test_a_link_that_hangs_is_given_up():
    class Hanging(RingLink):
        def receiver(self) -> Receiver:
            return Receiver(lambda: None)

    with pytest.raises(MeasureError, match="did not end in time"):
        measure(lambda: Hanging(32), "single", 32, SECONDS, timeout=0.3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown kind 'fast'"):
        measure(lambda: RingLink(32), "fast", 32, SECONDS)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        measure(lambda: RingLink(8), "single", 8, SECONDS)


def test_sizes():
    assert [slots(size) for size in (16, 32, 1024, 65536, 1 << 20)] == [1024, 1024, 1024, 64, 16]
    assert [batch_size(size) for size in (16, 32, 1024, 65536)] == [256, 256, 8, 4]
    assert set(two_cpus()) <= os.sched_getaffinity(0)
    with RingLink(32)._ring as ring:
        assert isinstance(ring, Ring)


@pytest.mark.parametrize("size", [16, 32, 1000, 8192])
def test_every_kind_of_every_link_arrives(size):
    rows = list(run(size, SECONDS))
    assert {(row["link"], row["kind"]) for row in rows} == {(name, kind) for name, link in LINKS.items() for kind in link.kinds}
    assert all(row["operations"] > 0 and not any(row["errors"].values()) for row in rows)


def test_the_command_prints_a_table_and_json():
    shown = CliRunner().invoke(main, ["bench", "--seconds", "0.01"])
    assert shown.exit_code == 0, shown.output
    assert "Ring, one message per call" in shown.stdout
    assert "32 bytes a message, 256 messages a batch" in shown.stdout
    printed = CliRunner().invoke(main, ["bench", "--seconds", "0.01", "--size", "64", "--json"])
    rows = json.loads(printed.stdout)
    assert {row["kind"] for row in rows} == set(KINDS)
    assert {row["size"] for row in rows} == {64}


def test_the_command_refuses_what_cannot_be_numbered():
    assert CliRunner().invoke(main, ["bench", "--size", "8"]).exit_code == 2


def test_a_failure_is_one_sentence(monkeypatch):
    from shmq import benchmark

    def fail(size, seconds):
        raise MeasureError("the other end is gone")
        yield

    monkeypatch.setattr(benchmark, "run", fail)
    result = CliRunner().invoke(main, ["bench"])
    assert result.exit_code == 1
    assert result.stderr == "Error: the other end is gone\n"
