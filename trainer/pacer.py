"""When to probe: rounds on the way may take a stated share of the time, and are put off where they would take more.

The first round (before the first step) and the last are always run and do not count: without them a run has no
result. A round that was put off is run at the first step that can afford it, once, however many were missed.
"""

from __future__ import annotations

from dataclasses import dataclass


def affordable(share: float, training_s: float, probing_s: float, round_s: float) -> bool:
    """Would one more round keep the rounds within `share` of the time? All times in seconds, so far."""
    spent = probing_s + round_s
    return spent <= share * (training_s + spent)


@dataclass
class Pacer:
    """Measured times in, decisions out. On several ranks one decides and tells the others: clocks differ."""

    share: float
    training_s: float = 0.0
    probing_s: float = 0.0  # of the rounds on the way
    round_s: float = 0.0  # the latest round of any kind: what the next is expected to take
    waiting: bool = False
    put_off: int = 0  # rounds that could not run at their step

    def trained(self, seconds: float) -> None:
        self.training_s += seconds

    def probed(self, seconds: float, on_the_way: bool = True) -> None:
        """A round took `seconds`; the first and the last one are not `on_the_way`."""
        self.round_s = seconds
        self.probing_s += seconds if on_the_way else 0.0
        self.waiting = False

    def due(self, asked: bool) -> bool:
        """Is a round to be run now? `asked`: this is one of the steps that the configuration names."""
        if not (asked or self.waiting):
            return False
        now = affordable(self.share, self.training_s, self.probing_s, self.round_s)
        if asked and not now:
            self.put_off += 1
        self.waiting = not now
        return now
