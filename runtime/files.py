"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


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
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
