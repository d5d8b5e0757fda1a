"""How glibc's heap behaves while something is measured, so that chance does not decide what that is."""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
LARGEST = 32 << 20  # bytes up to which a block comes from the heap: where glibc's own threshold ends up
ALL = (1 << 31) - 1


def give_back(size: int = 1 << 20) -> bool:
    """Let glibc return freed blocks of this many bytes and more to the system at once; False = no glibc.

    By default it keeps tensors up to 32 MB in its heap, whose holes then count: one step was seen to peak
    a quarter higher or not, by chance. `MALLOC_MMAP_THRESHOLD_=1048576` in the shell does
    the same for a run; its steps then take about a tenth longer.
    """
    return _set(M_MMAP_THRESHOLD, size)


def keep_freed() -> bool:
    """Let glibc keep what its heap has grown to, as it is in the middle of a training; False = no glibc.

    A step that needs more memory than those before it waits for the system: that was seen to make a
    measured step a third longer. Over whole epochs it matters little, in a few steps it does.
    """
    return _set(M_MMAP_THRESHOLD, LARGEST) and _set(M_TRIM_THRESHOLD, ALL)


def _set(what: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(what, value))
    except (AttributeError, OSError, TypeError):
        log.warning("no mallopt here: holes in the heap and its growth are measured too")
        return False
