"""Progress for a person: live bars with an ETA on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

PLAIN_SECONDS = 10.0


class Reporter:
    """Shows one line for each phase: what runs, slices done of all, documents a second, ETA."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._bar: Any = None
        self._label, self._total, self._first, self._done = "", 0, 0, 0
        self._start = self._said = 0.0

    def say(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, highlight=False, markup=False)

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Begin a phase of `total` units, `done` of which were committed before."""
        self._label, self._total, self._first, self._done = label, total, done, done
        self._start = self._said = time.monotonic()
        if self.console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description:<14}"),
                BarColumn(bar_width=8),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", table_column=Column()),  # the one that wraps where there is no room
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
            )
            self._live.start()
            self._bar = self._live.add_task(label, total=total, completed=done, note="")
        else:
            self.say(f"{label}: {done} of {total} done")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        if self._live:
            self._live.update(self._bar, advance=count, note=note)
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            passed = self._said - self._start
            eta = passed / max(1, self._done - self._first) * (self._total - self._done)
            self.say(f"{self._label}: {self._done} of {self._total}, {note + ', ' if note else ''}ETA {eta:.0f} s")

    def finish(self, note: str = "") -> None:
        seconds = time.monotonic() - self._start
        if self._live:
            self._live.update(self._bar, note=note)
            self._live.stop()
            self._live = None
        else:
            self.say(f"{self._label}: {self._done} of {self._total} in {seconds:.1f} s{', ' + note if note else ''}")
