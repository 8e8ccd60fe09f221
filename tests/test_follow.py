"""What a person sees of a training while it runs: the bar, the time that is left, and how it ended."""

from __future__ import annotations

import io
import json
import os
import resource
import signal

import pytest
from rich.console import Console

from pipeline import progress, storage, training
from pipeline.errors import Stopped, TamisError
from pipeline.progress import Reporter

STEP = {"event": "step", "step": 100_000, "steps": 250_000, "loss": 6.25, "tokens_per_s": 1_234_567.0, "mfu": 0.41,
        "memory_bytes": 71.2e9, "data_wait": 0.002}  # fmt: skip


def test_the_bar_shows_everything_on_80_columns():
    out = io.StringIO()
    reporter = Reporter(Console(file=out, force_terminal=True, width=80, color_system=None))
    reporter.start("train", STEP["steps"], STEP["step"])
    reporter.finish(training._progress(STEP))
    shown = out.getvalue()
    for part in ("100000/250000", "loss 6.250", "1,234,567 tokens/s", "MFU 41%", "71.2 GB", "data wait 0.2%"):
        assert part in shown
    assert "…" not in shown


def test_a_bar_is_taken_away_when_the_reading_ends_by_an_error():
    out = io.StringIO()

    def events():
        yield json.dumps(STEP).encode()
        raise Stopped("at once")

    with pytest.raises(Stopped):
        training.follow(events(), Reporter(Console(file=out, force_terminal=True, width=80)))
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor is back


def test_time_left_counts_from_where_the_training_went_on(monkeypatch):
    now = iter([0.0, 20.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    reporter = Reporter(Console(file=out))
    reporter.start("train", 1000, 900)
    reporter.advance(10)
    assert "train: 910 of 1000, ETA 180 s" in out.getvalue()


def test_a_second_signal_says_where_the_training_goes_on():
    asked = []

    def killed() -> None:
        with training._stopping(lambda: asked.append(1), Reporter(Console(quiet=True))):
            os.kill(os.getpid(), signal.SIGINT)
            assert asked == [1]
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="ended at once: the same command goes on"):
        killed()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_trainer_that_was_killed_is_named_with_its_signal(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(training.sys, "executable", str(script))
    with pytest.raises(TamisError, match="the trainer was ended by SIGKILL, as the system does when memory runs out"):
        training.launch(tmp_path, {}, Reporter())


def test_a_full_disk_names_the_file(tmp_path):
    """A limit on the size of a file stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            storage.publish(tmp_path / "train.config.json", b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "train.config.json")
    assert not list(tmp_path.iterdir())
