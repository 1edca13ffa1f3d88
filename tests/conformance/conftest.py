"""Fixtures for all tests of the stack."""

from tests.stackcore.left import nothing_left_behind

__all__ = ["nothing_left_behind"]
