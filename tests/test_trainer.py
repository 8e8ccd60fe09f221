"""Failures of the trainer's launcher are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_training import ROOT, launch, make_run

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("prepared") / "run")


def test_failures_are_one_line(prepared):
    wrong = launch(prepared, lr=7)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("trainer: ")
    assert "lr: Input should be less than 1" in wrong.stderr
    short = launch(prepared, seq_len=100_000)
    assert short.returncode == 1
    assert short.stdout == ""
    assert len(short.stderr.splitlines()) == 1
    assert "expected more than seq_len=100000 training tokens" in short.stderr
