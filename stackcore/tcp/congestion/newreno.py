"""Congestion control ``newreno`` (RFC 5681, 6582): all of :mod:`stackcore.tcp.congestion.reno`."""

from __future__ import annotations

from stackcore.tcp.congestion.control import CongestionControl

CONTROL = CongestionControl("newreno", "NewReno (RFC 5681, 6582): halve, then a segment per round trip")
