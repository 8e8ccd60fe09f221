"""What a training tells in a terminal: rows without a loss are no steps, and a narrow terminal cuts no number."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from scored_runs import items_of, write_round

from pipeline import compare, run_table

TASKS = {"a_task_of_some_name": items_of("a_task_of_some_name", 60)}


def printed(run: Path) -> str:
    console = Console(file=io.StringIO(), width=100)
    for line in run_table.training(run):
        console.print(line, highlight=False, markup=False)
    return console.file.getvalue()


def test_the_last_step_and_the_last_round(tmp_path):
    assert printed(tmp_path) == ""
    first = {"step": 0, "tokens": 0, "val_bits_per_byte": 3.0, "val_bits_per_byte_stderr": None}
    (tmp_path / "train.jsonl").write_text(json.dumps(first) + "\n")
    assert printed(tmp_path) == ""
    last = {"step": 4, "loss": 6.51, "tokens": 1024, "val_bits_per_byte": 2.5, "val_bits_per_byte_stderr": 0.125}
    with (tmp_path / "train.jsonl").open("a") as out:
        out.write(json.dumps(last) + "\n")
    rows = write_round(tmp_path, 4, TASKS, 0.0)
    assert "train: step 4, loss 6.510, 1,024 tokens, validation 2.500 ± 0.125 bits per byte" in printed(tmp_path)
    assert f"{rows[0]['bits_per_byte']:.3f} ± {rows[0]['bits_per_byte_stderr']:.3f}" in printed(tmp_path)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_comparison_is_never_cut(tmp_path, width):
    a, b = tmp_path / "a", tmp_path / "b"
    for run, skill in ((a, 0.0), (b, 0.9)):
        run.mkdir()
        write_round(run, 1, TASKS, skill, seed=1)
    found = compare.compare(a, b)
    console = Console(file=io.StringIO(), width=width)
    compare.show(a, b, found, console)
    said = console.file.getvalue()
    assert "…" not in said
    assert console.width == width
    for _, _, one in found.probes:
        assert f"  {one.metric} " in said
    assert f"{found.headline.low:+.4f} to {found.headline.high:+.4f}" in said
