"""Compiled and interpreted kernels give the same numbers: the same random walk through each module, in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

WALK = """
import hashlib, json, random
from stackcore import kernel
from stackcore.tcp import isn, rtt, sack, seq, wheel
from stackcore.tcp.config import HostConfig
from stackcore.tcp.congestion import CC, cc_ack, cc_idle, cc_init, cc_loss, cc_recovered
from stackcore.tcp.memory import new_tcp
from stackcore.tcp.state import CONNECTION

t, keep = new_tcp(HostConfig(connections=8, slots=1, seed=3, rto_min=0.001))
cfg, r = t.cfg[0], random.Random(5)
digests = {}

def note(name, values):
    flat = [[int(x) for x in v] if isinstance(v, tuple) else int(v) for v in values]
    contents = b"".join(a.tobytes() for a in (t.con, t.tmr, t.wheel, t.wheel_map, t.boards, t.boards_free))
    digests[name] = hashlib.sha256(json.dumps(flat).encode() + contents).hexdigest()

note("seq", [seq.unwrap(r.getrandbits(32), r.getrandbits(60)) for _ in range(500)])
note("isn", [f(cfg, r.getrandbits(32), r.getrandbits(16), r.getrandbits(32), r.getrandbits(16), *now)
             for _ in range(300) for f, now in ((isn.isn, (r.getrandbits(62),)), (isn.flow_hash, ()))])
for _ in range(300):
    c = t.con[r.randrange(8)]
    rtt.rtt_sample(cfg, c, r.choice((0, 1, 10**6, r.getrandbits(36))))
    if r.random() < 0.2:
        rtt.rto_backoff(cfg, c)
note("rtt", [])

now, fired = 10**9, []
for _ in range(600):
    for _ in range(r.randrange(4)):
        wheel.timer_set(t, r.randrange(8), r.randrange(4), now + 1 + r.getrandbits(r.randrange(43)))
    wheel.timer_stop(t, r.randrange(8), r.randrange(4))
    now += r.getrandbits(r.randrange(43))
    while (i := wheel.timer_next(t, now)) >= 0:
        fired.append(i)
    fired.append(wheel.timer_soonest(t))
note("wheel", fired)

seen = []
c = t.con[0]
c["mss"], c["snd_una"], c["snd_nxt"] = 100, 1 << 32, (1 << 32) + 5000
for _ in range(800):
    left = int(c["snd_una"]) + r.randrange(-200, 6000)
    seen.append(sack.sack_add(t, 0, left, left + r.randrange(300)))
    seen += [sack.sack_pipe(t, 0), sack.sack_next(t, 0), sack.sack_lost(t, 0, left), sack.sack_highest(t, 0)]
    if r.random() < 0.2:
        c["snd_una"] = r.randrange(int(c["snd_una"]), int(c["snd_nxt"]) + 1)
        sack.sack_ack(t, 0)
        c["snd_nxt"] = max(int(c["snd_nxt"]), int(c["snd_una"]) + r.randrange(6000))
    if r.random() < 0.1:
        c["recovery"], c["high_rxt"], c["recover"] = r.randrange(3), c["snd_una"], c["snd_nxt"]
    c["high_rxt"] += r.randrange(100)
note("sack", seen)

seen = []
for choice in CC:
    for mss in (536, 1460, 9000):
        c, now, p = t.con[1], 10**10, choice.value
        c["mss"], c["cwnd"], c["ssthresh"], c["recovery"], c["snd_una"] = mss, 0, 0, 0, 1 << 32
        c["snd_nxt"] = c["snd_una"]
        cc_init(p, c, now)
        for _ in range(1500):
            now += r.randrange(10**8)
            c["srtt"] = r.randrange(10**6, 10**9)
            c["snd_nxt"] = max(int(c["snd_nxt"]), int(c["snd_una"]) + int(c["cwnd"]) * r.randrange(80, 101) // 100)
            acked = min(r.randrange(1, 4 * mss), int(c["snd_nxt"] - c["snd_una"]))
            c["snd_una"] += acked
            cc_ack(p, c, acked, 0, now)
            if r.random() < 0.01:
                c["recovery"] = kind = r.randrange(1, 3)
                cc_loss(p, c, kind, now)
                cc_recovered(p, c, now)
                c["recovery"] = 0
            if r.random() < 0.003:
                cc_idle(p, c, now)
            seen.append(c["cwnd"])
note("congestion", seen)
print(json.dumps({"jit": kernel.JIT, **digests}))
"""


def walk(jit: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", WALK],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=ROOT,
        env={**os.environ, "STACKCORE_JIT": jit},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_compiled_and_interpreted_agree() -> None:
    compiled, interpreted = walk("1"), walk("0")
    assert (compiled.pop("jit"), interpreted.pop("jit")) == (True, False)
    assert len(compiled) == 6
    assert compiled == interpreted
