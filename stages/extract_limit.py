"""A CPU-time limit around one page: the net below the caps that are read off the page itself.

The caps of `extract` (bytes, start tags, markup cost) give the same verdict on every machine, but know only the bombs
that someone has measured. This limit catches the rest: a page that has used `seconds` of CPU time in user mode is
given up, and the caller counts it.

Trade-off: a verdict by time depends on the machine. So the limit is far beyond what a page inside the caps takes
(the slowest of 543 benchmark pages needs one second): it decides whether a run ends, not what is in it. CPU time, not
the clock: a busy or suspended machine changes nothing.

What it cannot do. The signal is handled between two byte codes of the main thread: a native call that does not
return is not interrupted, only noticed once it does; the caps stand before those. Off the main thread, where Python
allows no signal handlers, there is no limit. CPU time of other threads of the process counts as well.

Cost: four system calls for each page, about 3 microseconds.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN = 1.0  # seconds to the next signal, should a library swallow the first exception


class TooSlow(BaseException):
    """Raised inside the block that ran out of time; not an Exception, as parsers catch and forget those."""


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, _AGAIN)
    raise TooSlow


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the block when it has used `seconds` of user CPU time; 0 sets no limit.

    Uses SIGVTALRM and gives the handler back. Blocks do not nest: the inner one would end the outer one's limit.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    try:
        # The inner `finally` may itself be hit by a signal that was on its way: the outer one still tidies up.
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
