"""The exceptions of shmq. `queue.Full` and `queue.Empty` are used where the standard library has the word.

Sources: none beyond DESIGN section 3; the native module raises these very classes.
"""

__all__ = ["CorruptSegment", "OwnerDied", "PeerDied", "RoleTaken", "ShmqError"]


class ShmqError(Exception):
    """Base of every exception that only shmq raises."""


class RoleTaken(ShmqError):
    """Another live process (or another handle of this one) holds the role: a ring has one producer and one consumer."""


class PeerDied(ShmqError):
    """The process at the other end died while this call waited, and nothing is left to read."""


class CorruptSegment(ShmqError):
    """The segment is not what it should be: foreign, of another version, truncated, or with impossible cursors."""


class OwnerDied(ShmqError):
    """The process that held the lock died. The lock IS held by the caller now; what it protects may be half written.

    Proceed as with a robust mutex: repair or reset the protected data, then release the lock as usual. Every reader of a
    read-write lock is told until a writer was, because only a writer can repair.
    """
