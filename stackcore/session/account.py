"""What is left of a worker, and what its oracle says: asked by every transport.

The oracle's fields in a shared session record belong to the worker; they are read through C and believed only as far as a
statistic goes.
"""

from __future__ import annotations

from stackcore.abi import abi
from stackcore.kernel import kernel
from stackcore.native import load32
from stackcore.session.drain import drain_worker
from stackcore.session.listen import accepts_waiting
from stackcore.session.table import enqueue

_SHARED = abi.LISTEN_SHARED
_SEEN_AT = abi.SESSION.fields["seen_generation"][1] if abi.SESSION.fields else 0


@kernel
def account_of(st, s):
    """What the worker's oracle says of the last event of session ``s``: SEEN_*, or 0 when it has not seen it."""
    at = st.cfg[0]["sessions_at"] + s * st.cfg[0]["session_stride"] + _SEEN_AT
    if load32(at) != st.ses[s]["generation"] or load32(at + 4) < st.ses[s]["seq"]:
        return 0
    return load32(at + 8)


@kernel
def last_words(st, worker):
    """What a worker had said before it went: a connection that it took is not to be left without an owner."""
    drain_worker(st.cfg, st.tel, st.event, st.ses, st.shs, st.wrk, st.shw, st.lis, st.pend, st.new_io, worker)


@kernel
def release_queue(st, worker):
    """Empty a dead worker's queue; nothing belongs to it any more, and others are rung for what it may have been rung for."""
    for i in range(st.wrk[worker]["head"], st.wrk[worker]["tail"]):
        # its queue may name slots that are other workers' connections by now
        s = int(st.pend[worker, i & st.cfg[0]["queue_mask"]])
        st.ses[s]["queued"] = 0
        if st.ses[s]["owner"] != worker and st.ses[s]["owner"] >= 0 and st.ses[s]["pend"] != 0:
            enqueue(st.cfg, st.ses, st.wrk, st.pend, s)
    st.wrk[worker]["head"] = st.wrk[worker]["tail"]
    st.wrk[worker]["full"] = 0
    st.wrk[worker]["congested"] = 0
    for s in range(len(st.ses)):
        if st.ses[s]["owner"] == worker:
            st.ses[s]["owner"] = -1
    for li in range(len(st.lis)):
        if st.lis[li]["sharing"] == _SHARED:
            st.lis[li]["owed"] += accepts_waiting(st.cfg, li)  # it may have been rung for any of them
