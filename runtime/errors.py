"""What genedge reports in one line: each kind of failure carries its exit code."""


class GenedgeError(Exception):
    """A failure that the user can act on; the message names what was wrong and what to do."""

    exit_code = 2


class LimitMissed(GenedgeError):
    """A limit or an audit was missed (exit code 1)."""

    exit_code = 1


class BadInput(GenedgeError):
    """Wrong usage, or a file, prompt or option that can not be used (exit code 2)."""


class MissingProgram(GenedgeError):
    """A runtime or program that is needed is not installed (exit code 3)."""

    exit_code = 3


class EnvironmentFailed(GenedgeError):
    """The disk is full, memory ran out, or a runtime died (exit code 4)."""

    exit_code = 4
