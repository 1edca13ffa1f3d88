"""Capture files: others read what was written, to the nanosecond and the byte."""

from __future__ import annotations

import struct
from decimal import Decimal
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackcore import native  # noqa: F401  (before any module with kernels)
from stackcore.wire.pcap import RECORD_HEADER, PcapWriter, pcap_put
from tests.tcp.packets import Options, Segment
from tests.wire import tshark
from tests.wire.frames import Frame, numbered

S = 1_000_000_000
FILE_HEADER = 24
CLIENT, SERVER = 0x0A000001, 0x0A000002


def read(path: Path) -> list[tuple[int, bytes]]:
    """(ns, bytes) of each record, as dpkt reads them."""
    with path.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        assert reader.datalink() == 101
        return [(int(Decimal(time) * S), packet) for time, packet in reader]


def conversation() -> list[Segment]:
    """Handshake, a request, an answer, and the end, as a careful TCP would have it."""
    up = {"src": CLIENT, "dst": SERVER, "sport": 40000, "dport": 80}
    down = {"src": SERVER, "dst": CLIENT, "sport": 80, "dport": 40000}
    syn = Options(mss=1460, wscale=7, sack_ok=True, ts=(1, 0))
    return [
        Segment(**up, seq=100, flags=2, options=syn),
        Segment(**down, seq=500, ack=101, flags=18, options=syn),
        Segment(**up, seq=101, ack=501),
        Segment(**up, seq=101, ack=501, flags=24, payload=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Segment(**down, seq=501, ack=128, flags=24, payload=b"HTTP/1.1 204 No Content\r\n\r\n"),
        Segment(**down, seq=528, ack=128, flags=17),
        Segment(**up, seq=128, ack=529, flags=17),
        Segment(**down, seq=529, ack=129),
    ]


class TestFile:
    @given(
        packets=st.lists(st.tuples(st.integers(0, 4 * 10**18), st.binary(max_size=200)), max_size=30),
        drains=st.integers(1, 5), epoch=st.integers(0, 10**16),
    )  # fmt: skip
    @settings(deadline=None)
    def test_is_read_as_it_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, packets: list[tuple[int, bytes]], drains: int, epoch: int
    ) -> None:
        path, frame = tmp_path_factory.mktemp("pcap") / "x.pcap", Frame(rows=3, mtu=200)
        with PcapWriter(path, epoch=epoch) as writer:
            for k, (now, packet) in enumerate(packets):
                assert pcap_put(writer.capture, frame.buf, k % 3, frame.put(k % 3, packet), now) == 1
                if k % drains == 0:
                    writer.drain()
            assert (writer.captured, writer.missed) == (len(packets), 0)
        assert read(path) == [(now + epoch, packet) for now, packet in packets]

    def test_begins_with_what_the_format_asks_for(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pcap"
        PcapWriter(path, snaplen=1000).close()
        assert path.read_bytes() == struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 1000, 101)

    def test_an_old_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pcap"
        path.write_bytes(bytes(1000))
        PcapWriter(path).close()
        assert path.stat().st_size == FILE_HEADER

    def test_a_long_packet_is_cut_and_its_length_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pcap"
        with PcapWriter(path, snaplen=60) as writer:
            writer.put(numbered(1, 1500), 1)
        data = path.read_bytes()[FILE_HEADER:]
        assert struct.unpack_from("<IIII", data) == (0, 1, 60, 1500)
        assert data[RECORD_HEADER:] == numbered(1, 1500)[:60]

    def test_from_python_nothing_is_missed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pcap"
        packets = [(k, numbered(k, 90)) for k in range(50)]
        with PcapWriter(path, snaplen=100, buffer=300) as writer:
            for now, packet in packets:
                writer.put(packet, now)
            assert (writer.captured, writer.missed) == (50, 0)
        assert read(path) == packets

    def test_a_drain_says_how_much(self, tmp_path: Path) -> None:
        with PcapWriter(tmp_path / "x.pcap") as writer:
            writer.put(bytes(40), 0)
            assert [writer.drain(), writer.drain()] == [RECORD_HEADER + 40, 0]
        writer.close()  # a second time


class TestTrouble:
    def test_a_full_buffer_misses_whole_packets(self, tmp_path: Path) -> None:
        path, frame = tmp_path / "x.pcap", Frame(mtu=100)
        with PcapWriter(path, snaplen=100, buffer=3 * (RECORD_HEADER + 100) - 1) as writer:
            found = [pcap_put(writer.capture, frame.buf, 0, frame.put(0, numbered(k, 100)), k) for k in range(4)]
            assert found == [1, 1, 0, 0] and writer.missed == 2
            assert pcap_put(writer.capture, frame.buf, 0, frame.put(0, numbered(9, 80)), 9) == 1  # a shorter one fits
            writer.drain()
            assert pcap_put(writer.capture, frame.buf, 0, frame.put(0, numbered(5, 100)), 5) == 1
        assert read(path) == [(0, numbered(0, 100)), (1, numbered(1, 100)), (9, numbered(9, 80)), (5, numbered(5, 100))]

    @pytest.mark.parametrize("length", [-1, 101])
    def test_a_length_that_no_packet_in_the_row_has(self, tmp_path: Path, length: int) -> None:
        frame = Frame(mtu=100)
        with PcapWriter(tmp_path / "x.pcap") as writer:
            assert pcap_put(writer.capture, frame.buf, 0, length, 0) == 0
            assert (writer.captured, writer.missed) == (0, 1)
        assert (tmp_path / "x.pcap").stat().st_size == FILE_HEADER

    def test_a_full_disk(self) -> None:
        with pytest.raises(OSError, match=r"the capture could not be written \(No space left on device\): '/dev/full'"):
            PcapWriter("/dev/full")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            PcapWriter(tmp_path / "none" / "x.pcap")

    @pytest.mark.parametrize("sizes", [{"snaplen": 0}, {"snaplen": 65536}, {"snaplen": 100, "buffer": 115}])
    def test_sizes_without_sense(self, tmp_path: Path, sizes: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="a capture"):
            PcapWriter(tmp_path / "x.pcap", **sizes)
        assert not (tmp_path / "x.pcap").exists()


@pytest.mark.skipif(not tshark.installed(), reason="tshark is not installed")
class TestWireshark:
    def write(self, path: Path, packets: list[bytes]) -> Path:
        with PcapWriter(path) as writer:
            for k, packet in enumerate(packets):
                writer.put(packet, 1_000_001 * k)
        return path

    def test_has_nothing_against_it(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "x.pcap", [segment.pack() for segment in conversation()])
        assert tshark.complaints(path) == []
        assert tshark.frames(path, "frame.time_epoch") == [f"0.{1_000_001 * k:09d}" for k in range(8)]
        assert tshark.frames(path, "ip.proto") == ["6"] * 8

    def test_would_have_said_so(self, tmp_path: Path) -> None:
        packets = [segment.pack() for segment in conversation()]
        damaged = packets[3][:-1] + b"?"
        path = self.write(tmp_path / "x.pcap", [*packets[:3], damaged])
        assert len(tshark.complaints(path)) == 1
