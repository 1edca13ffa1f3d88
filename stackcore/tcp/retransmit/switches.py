"""The switches of D1."""

from __future__ import annotations

from stackcore.registry import switch

RECOVERY = switch("recovery", "what becomes of a queued retransmission whose connection is gone (D1)", "generation")
POLICY = switch("retransmit-policy", "which queued retransmission goes first when there are too many", "fifo")
