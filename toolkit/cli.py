"""The command line: its verbs, and how a failure becomes one line and an exit code."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings

import typer
from typer.exceptions import TyperException

from genedge.runtime.errors import GenedgeError

from .verbs import check, draw, learn, look, make, search, shrink, speed

CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended: no verdict was read

app = typer.Typer(
    name="genedge",
    help="Compress, export and verify text-to-image generators for phones and small CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    draw.generate,
    check.verify,
    speed.bench,
    look.inspect,
    look.blame,
    make.export,
    make.adopt,
    learn.train,
    learn.evaluate,
    shrink.prune,
    shrink.distill,
    search.tune,
):
    app.command()(verb)


def main() -> None:
    """Runs the command line; every failure is one line and an exit code of the documentation."""
    debug = "--debug" in sys.argv
    if not debug:  # torch and its friends tell each other what will change one day
        warnings.simplefilter("ignore", FutureWarning)
    code = 0
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == 130:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
    except TyperException as problem:
        text, code = problem.format_message(), 2
        if text.startswith("Usage:"):  # no arguments at all: the help
            print(text)
        else:
            _fail(" ".join(text.split()), code, debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted; nothing half-written is left", 130, debug)
    except GenedgeError as problem:
        code = _fail(str(problem), problem.exit_code, debug)
    except MemoryError:
        code = _fail("memory ran out; close other programs and try again", 4, debug)
    except BrokenPipeError:
        code = CLOSED_PIPE
    except SystemExit as ended:  # typer's own answer to a closed pipe, and to `typer.Exit`
        before = ended.__context__
        closed = isinstance(before, OSError) and before.errno == errno.EPIPE
        said = CLOSED_PIPE if closed else ended.code or 0
        code = said if isinstance(said, int) else _fail(said, 4, debug)
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; free some space" if full else str(problem)
        code = _fail(what, 4, debug)
    except Exception as problem:
        last = str(problem).strip().splitlines()[:1] or [""]
        text = f"unexpected {type(problem).__name__}: {last[0][:200]}; --debug shows where"
        code = _fail(text, 4, debug)
    sys.exit(code)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"genedge: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
