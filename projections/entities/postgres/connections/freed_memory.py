"""What the allocator does with memory that was freed: some of it is kept for the next page.

PERF: pages are read through buffers of a megabyte, made and freed for each statement. By default glibc gives such
memory back to the system at once, which then clears each page of it anew: a third of what a stream costs a worker.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

KEPT_BYTES: Final = 8 * 1024 * 1024
"""How much freed memory at the end of the heap is kept at most."""
_LARGEST_BYTES: Final = 2 * 1024 * 1024
"""What is larger gets memory of its own, which is given back as it is freed."""
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Have this process keep up to KEPT_BYTES; tells whether it does.

    Does nothing where an environment decides that, or where the C library has no `mallopt` (musl's and macOS's).
    In place of an allocator that was loaded before glibc's it changes nothing.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES))
