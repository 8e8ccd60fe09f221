"""Whole trainings in subprocesses: they learn, and resuming, more ranks or a kill change no number."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_training import ROOT, TRAIN, begun, make_run, rows_of, succeed

from trainer.rundir import CheckpointError, latest, truncate_rows

KEYS = ("loss", "grad_norm", "val_loss")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    """One uninterrupted run of one rank with a checkpoint in the middle."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run")
    return run, succeed(run, checkpoint_every=4)


def largest_difference(left: Path, right: Path) -> float:
    """Over all numbers of two train.jsonl that the arithmetic decides; the steps must be the same."""
    rows = list(zip(rows_of(left), rows_of(right), strict=True))
    assert all(a["step"] == b["step"] for a, b in rows)
    return max(abs(a[key] - b[key]) for a, b in rows for key in KEYS if key in a)


def test_a_run_learns_and_leaves_the_contract(trained):
    run, events = trained
    untrained = json.loads((run / "train.jsonl").read_text().splitlines()[0])
    assert (untrained["step"], untrained["tokens"], "loss" in untrained) == (0, 0, False)
    rows = rows_of(run)
    assert untrained["val_loss"] == pytest.approx(math.log(320), abs=0.1)
    assert untrained["val_bits_per_byte"] > rows[-1]["val_bits_per_byte"] + 3 * rows[-1]["val_bits_per_byte_stderr"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"step", "loss", "tokens", "tokens_per_s", "mfu", "mfu_of_measured", "memory_bytes", "data_wait", "lr",
            "grad_norm"} <= rows[0].keys()  # fmt: skip
    assert rows[-1]["tokens"] == 6 * 8 * 32
    assert {"val_loss", "val_loss_stderr", "val_bits_per_byte", "val_bits_per_byte_stderr"} <= rows[-1].keys()
    assert rows[-1]["validation"]["toy"]["n"] == 5
    assert rows[-1]["validation"]["toy"]["bits_per_byte"] == pytest.approx(rows[-1]["val_bits_per_byte"])
    assert all(0 <= row["data_wait"] < 1 and 0 < row["mfu"] < 1 and row["memory_bytes"] > 1e8 for row in rows)
    assert rows[0]["loss"] == pytest.approx(math.log(320), abs=0.1)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    probes = rows_of(run, "probes.jsonl")
    assert [(row["step"], row["task"], row["n"]) for row in probes] == [(0, "toy", 8), (3, "toy", 8), (6, "toy", 8)]
    for name in ("acc", "acc_norm", "bits_per_byte"):
        assert {name, f"{name}_stderr"} <= probes[0].keys()
    for folder in ("probe-items", "validation-items"):
        assert {path.name for path in (run / folder).iterdir()} == {f"step-{step}.parquet" for step in (0, 3, 6)}
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["estimate", "start"]
    assert kinds[-1] == "done"
    assert (run / "checkpoints" / "latest").read_text() == "step-6\n"
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == ["step-4", "step-6"]


def test_a_finished_run_does_nothing(trained):
    run, _ = trained
    before = (run / "train.jsonl").read_bytes()
    assert succeed(run, checkpoint_every=4) == [{"event": "done", "step": 6, "steps": 6, "already": True}]
    assert (run / "train.jsonl").read_bytes() == before


def test_checkpoint_loads_in_transformers(trained):
    import torch

    transformers = pytest.importorskip("transformers")
    folder = trained[0] / "checkpoints" / "step-6"
    _, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_resumption_is_exact(trained, tmp_path):
    """Back to the checkpoint of step 4 and on again, past a broken later checkpoint and a half-written row."""
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    (run / "checkpoints" / "latest").write_text("step-4\n")
    (run / "checkpoints" / "step-6" / "model.safetensors").write_bytes(b"half-written")
    with (run / "train.jsonl").open("a") as out:
        out.write('{"step": 7, "los')
    for folder in ("probe-items", "validation-items"):
        shutil.copy(run / folder / "step-6.parquet", run / folder / "step-5.parquet")
    assert begun(succeed(run)) == 4
    assert largest_difference(trained[0], run) == 0
    assert (run / "probes.jsonl").read_text() == (trained[0] / "probes.jsonl").read_text()
    for folder in ("probe-items", "validation-items"):
        files = [{path.name: path.read_bytes() for path in (one / folder).iterdir()} for one in (run, trained[0])]
        assert files[0] == files[1], "those after the checkpoint are gone, and made again"


def test_two_ranks_with_zero_1_equal_one_rank(trained, tmp_path):
    """From scratch, and from their checkpoint on with one rank and no sharding."""
    run = make_run(tmp_path / "run")
    succeed(run, ranks=2, zero_stage=1, checkpoint_every=3)
    assert largest_difference(trained[0], run) < 1e-5
    scores = [pq.read_table(one / "validation-items" / "step-6.parquet") for one in (run, trained[0])]
    assert scores[0].drop_columns("nll").equals(scores[1].drop_columns("nll"))
    assert scores[0]["nll"].to_pylist() == pytest.approx(scores[1]["nll"].to_pylist(), rel=1e-5)
    (run / "checkpoints" / "latest").write_text("step-3\n")
    assert begun(succeed(run)) == 3
    assert largest_difference(trained[0], run) < 1e-5


def test_a_killed_run_continues(trained, tmp_path):
    """SIGKILL just after the first checkpoint, then the same command: the same rows as without the kill."""
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text(json.dumps(TRAIN | {"checkpoint_every": 2}))
    command = [sys.executable, "-m", "trainer.launch", "--run", str(run), "--config", str(run / "config.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert any(json.loads(line)["event"] == "checkpoint" for line in process.stdout)
        process.kill()
    events = succeed(run, checkpoint_every=2)
    assert events[0].get("already") or begun(events) in (2, 4)  # as far as it came before the signal
    assert largest_difference(trained[0], run) == 0


def test_a_changed_setting_starts_again_and_keeps_the_old(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    events = succeed(run, steps=2, probe_every=0)
    assert [event["event"] for event in events[:2]] == ["estimate", "restart"]  # nothing is moved before it may train
    assert begun(events) == 0
    assert [row["step"] for row in rows_of(run)] == [1, 2]
    (old,) = run.glob("checkpoints-*")
    assert (old / "step-6" / "model.safetensors").exists()
    assert len((old / "train.jsonl").read_text().splitlines()) == 7
    assert (old / "validation-items" / "step-0.parquet").exists()
    assert not (run / "validation-items" / "step-0.parquet").exists()


def test_latest_that_points_nowhere_is_an_error(tmp_path):
    assert latest(tmp_path) is None
    (tmp_path / "latest").write_text("step-9\n")
    with pytest.raises(CheckpointError, match="names step-9, which cannot be read"):
        latest(tmp_path)
    (tmp_path / "step-9").mkdir()
    (tmp_path / "step-9" / "state.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"cannot be read \(expected state.json with a step\)"):
        latest(tmp_path)
    (tmp_path / "latest").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"latest: names .*, which cannot be read"):
        latest(tmp_path)


def test_truncation_drops_later_and_broken_rows(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_rows(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    for broken in (b"\xff\xfe\n", b"[2]\n", b"{}\n"):
        path.write_bytes(b'{"step": 1}\n' + broken + b'{"step": 2}\n')
        truncate_rows(path, 2)
        assert path.read_text() == '{"step": 1}\n'
