"""Weights that are mapped from files: memory that can be given back and read again."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor

_PAGEOUT = 21  # MADV_PAGEOUT of Linux 5.4 and later
_LEAST = 1_000_000  # bytes of a tensor that is worth a call


def let_go(tensors: Iterable[Tensor]) -> int:
    """Asks the system to take back the pages of large tensors; returns of how many bytes.

    What is mapped from a file is dropped and read again at the next use; values stay what they are.
    Other memory stays where it is, or goes to swap where there is one. 0 where the system can not.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    asked, seen = 0, set()
    for tensor in tensors:
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = tensor.data_ptr() + tensor.numel() * tensor.element_size()
        end = end // mmap.PAGESIZE * mmap.PAGESIZE
        if end - begin < _LEAST or begin in seen:
            continue
        seen.add(begin)
        if madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _PAGEOUT) == 0:
            asked += end - begin
    return asked
