"""The app side for Python programs: a worker that is attached to a core."""

from stackcore.app.worker import Worker

__all__ = ["Worker"]
