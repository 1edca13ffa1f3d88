"""Plug-ins: a congestion control of somebody else's, compiled into the loop.

Each test is a process of its own, because what is compiled cannot be taken back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HALF = "examples.stackcore.half:HALF"
LOADING = "from stackcore.tcp.congestion import load_plugin\n"


def python(code: str, folder: Path = ROOT, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in ``folder``, which also looks for modules in ``path``; kernels are interpreted unless told otherwise."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), path))),
            "STACKCORE_JIT": "0",
            **environment,
        },
    )


def plugin(name: str, gain: int) -> str:
    """Source of a control that opens by ``gain`` bytes an acknowledgment."""
    return textwrap.dedent(f"""
        from stackcore.tcp.congestion import CongestionControl

        def ack(con, acked, rtt, now):
            con["cwnd"] += {gain}

        MINE = CongestionControl("{name}", "a test", ack=ack)
        OTHER = CongestionControl("other", "another")
        NOTHING = 1
    """)


OPEN_ONCE = """
    import numpy as np
    from stackcore.tcp.congestion import CC, cc_ack
    from stackcore.tcp.state import CONNECTION
    con = np.zeros(1, CONNECTION)[0]
    con["mss"], con["cwnd"], con["ssthresh"] = 1000, 10000, 1 << 40
    cc_ack(CC["mine"].value, con, 1000, 0, 1)
    print(con["cwnd"])
"""


IN_A_STACK = """
    from stackcore.tcp import Host, HostConfig
    hosts = [Host(HostConfig(addr=f"10.0.0.{i}", seed=i, cc="mine")) for i in (1, 2)]
    listener, client = hosts[1].socket(), hosts[0].socket()
    listener.listen(80)
    client.connect_ex(("10.0.0.2", 80))
    for k in range(20):
        if k == 5:
            client.send(bytes(65536))
        for source, other in (hosts, hosts[::-1]):
            for packet in source.transmit(k / 100):
                other.receive(packet, k / 100)
    con = hosts[0].tcp.con
    c = con["cwnd"].argmax()
    grown = con["cwnd"][c] - 10 * con["mss"][c]
    print(grown > 0, grown % 7)
"""


class TestLoading:
    def test_becomes_a_choice(self) -> None:
        done = python(
            f"""
            from stackcore.tcp.congestion import CC, load_plugin
            load_plugin("{HALF}")
            from stackcore.tcp.congestion import cc_ack
            print(*[(choice.name, choice.value) for choice in CC])
            """
        )
        assert done.stdout.strip() == "('newreno', 0) ('cubic', 1) ('half', 2)", done.stderr

    def test_drives_a_stack(self, tmp_path: Path) -> None:
        """The window of a connection that has sent something is the initial one and a few times what the plug-in adds."""
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        done = python(LOADING + "load_plugin('mine:MINE')" + textwrap.dedent(IN_A_STACK), folder=tmp_path)
        assert done.stdout.strip() == "True 0", done.stderr

    def test_twice_is_once(self) -> None:
        done = python(LOADING + f"print(load_plugin('{HALF}') is load_plugin('{HALF}'))")
        assert done.stdout.strip() == "True", done.stderr

    def test_keeps_every_promise(self) -> None:
        """The conformance tests of all choices, the example among them."""
        done = python(
            f"""
            import sys, pytest
            from stackcore.tcp.congestion import load_plugin
            load_plugin("{HALF}")
            sys.exit(pytest.main(["-v", "-p", "no:cacheprovider", "tests/tcp/test_congestion.py::TestEveryChoice"]))
            """
        )
        assert done.returncode == 0, done.stdout
        assert "test_slow_start_doubles[half] PASSED" in done.stdout

    def test_from_the_current_folder(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        done = python(LOADING + "load_plugin('mine:MINE')" + textwrap.dedent(OPEN_ONCE), folder=tmp_path)
        assert done.stdout.strip() == "10007", done.stderr

    def test_by_the_name_of_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        done = python(LOADING + f"load_plugin('{tmp_path}/mine.py:MINE')" + textwrap.dedent(OPEN_ONCE))
        assert done.stdout.strip() == "10007", done.stderr

    def test_two_of_one_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        done = python(LOADING + "print(load_plugin('mine:MINE').name, load_plugin('mine:OTHER').name)", folder=tmp_path)
        assert done.stdout.strip() == "mine other", done.stderr

    def test_installed_packages_are_found(self, tmp_path: Path) -> None:
        """By their entry points, as pip installs them."""
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        metadata = tmp_path / "mine-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[stackcore.plugins]\nmine = mine:MINE\n")
        done = python(OPEN_ONCE.replace("CC, cc_ack", "cc_ack, CC"), path=str(tmp_path))
        assert done.stdout.strip() == "10007", done.stderr


class TestMistakes:
    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("mine", "write it as module:NAME"),
            (":MINE", "write it as module:NAME"),
            ("mine:", "write it as module:NAME"),
            ("mine:a b", "write it as module:NAME"),
            ("nowhere:MINE", "there is no module nowhere"),
            ("nowhere.at_all:MINE", "nowhere"),
            ("missing.py:MINE", "there is no module missing"),
            ("json.py:MINE", "call the file something else"),
            ("mine:MISSING", "no attribute 'MISSING'"),
            ("mine:NOTHING", "it is of type int, not a stackcore.tcp.congestion.CongestionControl"),
            ("same:MINE", "--cc cubic is registered twice"),
        ],
    )
    def test_says_what_is_wrong(self, tmp_path: Path, where: str, message: str) -> None:
        (tmp_path / "mine.py").write_text(plugin("mine", 7))
        (tmp_path / "same.py").write_text(plugin("cubic", 7))
        done = python(LOADING + f"load_plugin('{where}')", folder=tmp_path)
        last = done.stderr.strip().splitlines()[-1]
        assert "PluginError" in last and where in last and message in last

    def test_too_late(self) -> None:
        done = python(LOADING + f"from stackcore.tcp.congestion import cc_ack\nload_plugin('{HALF}')")
        assert "load plug-ins before" in done.stderr.strip().splitlines()[-1]

    def test_a_broken_installed_one_is_named_and_left_out(self, tmp_path: Path) -> None:
        metadata = tmp_path / "broken-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[stackcore.plugins]\nbroken = missing:MINE\n")
        done = python("from stackcore.tcp.congestion import CC, cc_ack; print(len(CC.choices))", path=str(tmp_path))
        assert done.stdout.strip() == "2", done.stderr
        assert "missing:MINE" in done.stderr


class TestCompiled:
    @pytest.mark.slow
    def test_a_changed_plugin_is_compiled_anew(self, tmp_path: Path) -> None:
        """And the loop that calls it: what was cached for another version of the file is not used."""
        code = LOADING + "load_plugin('mine:MINE')" + textwrap.dedent(OPEN_ONCE)
        code += "from stackcore.kernel import cache_statistics\nprint(*cache_statistics())\n"
        seen = []
        for gain in (7, 9, 7):
            (tmp_path / "mine.py").write_text(plugin("mine", gain))
            done = python(code, folder=tmp_path, STACKCORE_JIT="1", XDG_CACHE_HOME=str(tmp_path / "cache"))
            assert done.returncode == 0, done.stderr
            seen.append(done.stdout.split())
        assert [window for window, _, _ in seen] == ["10007", "10009", "10007"]
        assert int(seen[0][2]) > 0 and int(seen[1][2]) > 0, "compiled"
        assert seen[2][2] == "0", "found in the cache"
