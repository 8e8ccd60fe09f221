"""Errors that a person reads: where, what was expected, what was found, what to do."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from dataclasses import dataclass


class TamisError(Exception):
    """An error with a message for the person at the terminal; printed without a traceback."""


class Stopped(TamisError):
    """The work ended on request and in good order; the same command goes on from there."""


class StageError(TamisError):
    """A stage that cannot work at all (no model, wrong normalisation), as opposed to one record that it cannot read."""


class ConservationError(TamisError):
    """A stage or shard whose documents in differ from kept + dropped + quarantined."""


def ended(who: str, status: int) -> str:
    """How a process of a training ended by itself: with a signal, which is a negative status, or another."""
    if status >= 0:
        return f"{who} ended with status {status}"
    name = signal.Signals(-status).name
    why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"{who} was ended by {name}{why}: the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a manifest. `line` is 1-based, 0 when the value came from the command line. Without
    `found`, `expected` is a sentence that says both."""

    field: str
    expected: str
    found: str
    line: int = 0
    hint: str = ""

    def render(self, file: str) -> str:
        where = f"{file}:{self.line}" if self.line else file
        said = f"expected {self.expected}, found {self.found}" if self.found else self.expected
        text = f"{where}: {self.field}: {said}"
        return f"{text} ({self.hint})" if self.hint else text


class ManifestError(TamisError):
    """Every problem of one manifest, found before any work starts."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        super().__init__("\n".join(problem.render(file) for problem in problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'langid'?`, or an empty string when nothing known is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""
