"""Sessions, listeners, accept policies and the way events take to the workers."""

import stackcore.native  # noqa: F401  (kernels need the native library first)
