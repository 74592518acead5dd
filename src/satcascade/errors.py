"""The two errors a user can meet: each is one line that says what, where, and what to do."""

from __future__ import annotations


class SatcascadeError(Exception):
    """A clear refusal at run time; the command line prints its message and exits with 1."""

    exit_code = 1


class UsageError(SatcascadeError):
    """The request itself is wrong (an argument, a configuration key); exits with 2."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """What an error says, short and in one line."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
