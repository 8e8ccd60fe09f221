"""Trainings that end otherwise than by their last step: stopped, broken, refused; and the ways to start one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from toy_training import ROOT, TRAIN, begun, launch, make_run, rows_of, succeed

from trainer.hardware import local_ranks
from trainer.launch import ERROR_MARK, first_error
from trainer.rundir import TrainingError, enter, lock
from trainer.train import LAUNCHER

QUIET = {"probe_every": 0, "val_limit": 0}
MANIFEST = {"name": "toy", "sources": [{"name": "pydoc", "format": "pydoc"}], "stages": ["extract"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("prepared") / "run")


@pytest.fixture
def run(prepared, tmp_path) -> Path:
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def tamis(*arguments: object, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, **more)


def manifest(folder: Path, **changes) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(MANIFEST | {"train": TRAIN | changes}))
    return path


def stopped(run: Path, ranks: int) -> list[dict]:
    """Events of a training that gets SIGTERM after its first step."""
    (run / "config.json").write_text(json.dumps(TRAIN | QUIET | {"steps": 1500, "ranks": ranks}))
    command = [sys.executable, "-m", "trainer.launch", "--run", str(run), "--config", str(run / "config.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "step":
                process.send_signal(signal.SIGTERM)
                break
        events += [json.loads(line) for line in process.stdout]
    assert process.returncode == 0, (run / "train.log").read_text()[-2000:]
    assert [event["event"] for event in events[-2:]] == ["checkpoint", "stopped"]
    assert (run / "checkpoints" / "latest").read_text() == f"step-{events[-1]['step']}\n"
    assert not (run / "stop").exists()
    return events


def test_a_stop_signal_saves_and_the_run_goes_on(run):
    """SIGTERM in the middle of two ranks, then of one; each step is logged once. An old stop file is no request."""
    first = stopped(run, 2)[-1]["step"]
    assert 0 < first < 1500
    (run / "stop").touch()
    events = stopped(run, 1)
    assert begun(events) == first
    assert events[-1]["step"] > first
    assert [row["step"] for row in rows_of(run)] == list(range(1, events[-1]["step"] + 1))


def test_a_stop_file_is_taken_away_at_a_start_unless_another_trainer_is_to_obey_it(tmp_path):
    (tmp_path / "stop").touch()
    said = []
    events = SimpleNamespace(emit=lambda event, **fields: said.append((event, fields["text"])))
    with lock(tmp_path), pytest.raises(TrainingError, match="another trainer is writing to it"):
        enter(tmp_path, events, 0.0)
    assert said == [("note", f"{tmp_path}: another trainer is writing to it: waiting 0 s for its end")]
    assert (tmp_path / "stop").exists()
    enter(tmp_path, events)
    assert not (tmp_path / "stop").exists()


def test_a_rank_that_the_system_killed_is_the_cause_and_not_what_the_others_lost():
    log = ["trainer-error: RuntimeError: Connection reset by peer", "  exitcode  : 1 (pid: 9057)",
           "  exitcode  : -9 (pid: 9058)  (SIGKILL)", "trainer-error: later"]  # fmt: skip
    assert first_error(log).startswith("a rank was ended by SIGKILL, as the system does when memory runs out")
    assert first_error([*log[:2], log[3], "  exitcode  : -15 (pid: 9058)  (SIGTERM)"]).startswith("RuntimeError")
    assert first_error([]) == ""


def test_a_wrong_mix_is_refused_before_anything_is_moved(run, tmp_path):
    succeed(run, **QUIET | {"steps": 1})
    before = sorted(file.name for file in run.iterdir())
    done = launch(run, **QUIET | {"steps": 1, "mix": {"tyo": 1}})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "found unknown: tyo; not named: toy" in done.stderr
    assert sorted(file.name for file in run.iterdir()) == before
    dry = tamis("train", manifest(tmp_path, mix={"tyo": 1}), "--run-dir", run, "--dry-run")
    assert dry.returncode == 1
    assert "found unknown: tyo; not named: toy" in dry.stderr


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_documents(run):
    """A decay that blows the weights up in step 1: the gradient of step 2 is no number."""
    from trainer.config import TrainConfig
    from trainer.lineage import documents_of_step
    from trainer.tokens import TokenIndex

    done = launch(run, **QUIET | {"weight_decay": 1e30, "ranks": 2, "checkpoint_every": 1})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    report = run / "spikes" / "step-2.json"
    assert line.startswith("trainer: step 2: the loss is ")
    assert "the gradient norm nan" in line
    assert str(report) in line
    body = json.loads(report.read_text())
    assert (body["kind"], body["step"], body["grad_norm"]) == ("nan", 2, "nan")
    config = TrainConfig.model_validate(TRAIN | {"ranks": 2})
    assert body["documents"] == documents_of_step(TokenIndex.read(run / "tokens"), config, 2)
    assert sum(row["tokens"] for row in body["documents"]) == 8 * 32
    assert [row["step"] for row in rows_of(run)] == [1]
    assert (run / "checkpoints" / "latest").read_text() == "step-1\n"


def test_a_spike_is_reported_and_the_run_goes_on(run):
    events = succeed(run, **QUIET | {"steps": 80, "spike": 1.0})
    spikes = [event for event in events if event["event"] == "spike"]
    assert spikes
    for event in spikes:
        body = json.loads(Path(event["report"]).read_text())
        assert body["step"] == event["step"]
        assert body["deviations"] > 1.0
        assert body["loss"] == rows_of(run)[body["step"] - 1]["loss"] > body["expected"]
        assert sum(row["tokens"] for row in body["documents"]) == 8 * 32
    assert events[-1]["event"] == "done"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "in the environment, as a launcher of ranks sets them, found no RANK, WORLD_SIZE, LOCAL_RANK"),
        (dict(zip(LAUNCHER, "03000", strict=True)), "ranks: expected the 3 processes of this launch, found 1"),
    ],
)
def test_a_launcher_that_says_too_little_or_something_else(run, environment, words):
    (run / "config.json").write_text(json.dumps(TRAIN))
    command = [sys.executable, "-m", "trainer.train", str(run), str(run / "config.json")]
    environment = {**{name: text for name, text in os.environ.items() if name not in LAUNCHER}, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(ERROR_MARK)
    assert words in done.stderr.splitlines()[-1]


def test_deepspeeds_launcher_tells_the_ranks_of_a_machine_by_its_own_name(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert local_ranks() == 1
    monkeypatch.setenv("LOCAL_SIZE", "8")
    assert local_ranks() == 8


def test_the_train_command_trains_and_shows_what_it_will_do(run, tmp_path):
    path = manifest(tmp_path)
    shown = tamis("train", path, "--run-dir", run, "--dry-run", env={"COLUMNS": "120", "PATH": ""})
    assert shown.returncode == 0, shown.stderr
    for text in ("parameters", "28,832", "compute-optimal", "epochs of toy", "activations", "MFU of"):
        assert text in shown.stderr
    assert not (run / "train.jsonl").exists()
    done = tamis("train", path, "--run-dir", run, "--set", "train.steps=4")
    assert done.returncode == 0, done.stderr
    assert "train: step 4, loss" in done.stdout
    again = tamis("train", path, "--run-dir", run, "--set", "train.steps=4")
    assert "this training is done" in again.stderr


@pytest.fixture(scope="module")
def ray():
    """A Ray of this process for the tests of this file."""
    from pipeline.ray_executor import RayExecutor

    executor = RayExecutor(2)
    yield
    executor.close()


def on_ray(run: Path, **changes) -> None:
    from pipeline.progress import Reporter
    from pipeline.training import launch_on_ray
    from trainer.config import TrainConfig

    config = TrainConfig.model_validate(TRAIN | {"ranks": 2} | changes)
    launch_on_ray(run, config.model_dump(mode="json"), None, Reporter())


def test_two_ranks_on_ray_give_the_numbers_of_one_process(ray, run):
    on_ray(run, zero_stage=1)
    theirs = rows_of(run)
    shutil.rmtree(run / "checkpoints")
    succeed(run)
    assert [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(rows_of(run), theirs, strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5


def test_an_error_of_a_rank_on_ray_is_the_error_of_the_launch(ray, run):
    from pipeline.errors import TamisError

    with pytest.raises(TamisError, match="sequences of seq_len=100000"):
        on_ray(run, seq_len=100_000)
    with pytest.raises(TamisError, match="expected room for 64 ranks of 1 CPUs each, found 2 CPUs"):
        on_ray(run, ranks=64, global_batch=64)


def test_the_train_command_wants_shards(tmp_path):
    done = tamis("train", manifest(tmp_path), "--run-dir", tmp_path / "none")
    assert done.returncode == 1
    assert "expected tokens/index.json, found none: make the shards with `tamis run` first" in done.stderr


def break_shard(run: Path) -> None:
    (run / "tokens" / "train-1.parquet").write_bytes(b"cut")


@pytest.mark.parametrize(
    ("damage", "changes", "words"),
    [
        (break_shard, {}, "train-1.parquet: expected"),
        (None, {"model": "7b", "seq_len": 8192, "micro_batch": 8}, "too little memory: each rank needs about"),
        (None, {"init_from": "/etc"}, "/etc/config.json: cannot be read"),
        (lambda run: (run / "train.log").mkdir(), {}, "train.log: cannot be written: Is a directory"),
    ],
    ids=["shard", "memory", "init_from", "log"],
)
def test_bad_input_is_one_line(run, damage, changes, words):
    """The ways in which a launch can fail; what can be wrong is tested where it is found."""
    if damage:
        damage(run)
    done = launch(run, **QUIET | changes)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("trainer: ")
    assert words in line
    assert not (run / "checkpoints").exists()
