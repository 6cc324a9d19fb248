"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def alive(partial: Path) -> bool:
    """Whether the process that writes this, whose number its name ends with, runs here."""
    pid = partial.name.rsplit("-", 1)[-1]
    if not pid.isdigit():
        return False
    if os.name != "posix":
        return True  # nobody can say
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file to fill; on leaving, it takes the place of `path` in one rename.

    Where the body raises, nothing is left. A link stays one: the file that it leads to is replaced.
    What is no plain file (/dev/stdout, /dev/null, a pipe) is given as it is. Raises OSError.
    """
    if path.exists() and (not path.is_file() or path.absolute().is_relative_to("/dev")):
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    # Of its own: another process may write the same file at the same time.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial-{os.getpid()}")
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.partial-*"):
        if not alive(old):
            with contextlib.suppress(OSError):
                old.unlink()
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
