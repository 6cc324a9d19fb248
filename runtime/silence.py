"""Keeps what libraries print while they are imported away from the user."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator

_ONE = threading.RLock()  # two at a time would each restore what the other had turned


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Sends file descriptor 2 to nowhere, and ignores warnings, inside the block; one thread at a
    time.

    Native code prints past sys.stderr, so the descriptor itself is turned.
    """
    with _ONE:
        sys.stderr.flush()
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
