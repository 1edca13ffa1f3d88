"""The session layer's switches, and their choices loaded: accept policy, what to do with a full ring."""

from __future__ import annotations

from stackcore.registry import switch

ACCEPT = switch("accept", "which worker gets a new connection of a duplicated listener", "round-robin")
RING_FULL = switch("ring-full", "when a worker's ring is full", "congest")

RING_FULL.add("block", "keep the events and take no new input for that worker's sessions")
RING_FULL.add("drop", "drop the event, as VPP did until 23.06: its session may wait for ever")
RING_FULL.add("congest", "keep the events and give that worker no new connections (VPP since 23.10)")

BLOCK, DROP, CONGEST = (RING_FULL[name].value for name in ("block", "drop", "congest"))
