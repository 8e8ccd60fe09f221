"""Failures of the trainer's launcher are one line; the logs and the services that get their rows; the meter."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from toy_training import TRAIN, launch, make_run

from trainer.config import TrainConfig
from trainer.hardware import Peak
from trainer.logs import PROBES, Logs
from trainer.logs import TRAIN as TRAIN_LOG
from trainer.meter import Meter
from trainer.rundir import TrainingError


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
    assert [json.loads(line)["event"] for line in short.stdout.splitlines()] == ["estimate"]
    assert len(short.stderr.splitlines()) == 1
    assert "sequences of seq_len=100000" in short.stderr


class FakeRun:
    """A run of W&B that keeps what it is given."""

    def __init__(self, **options) -> None:
        self.options, self.logged, self.finished = options, [], False

    def log(self, numbers: dict, step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished = True


def test_services_get_every_number_of_a_row(tmp_path, monkeypatch):
    runs: list[FakeRun] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **options: runs.append(FakeRun(**options)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = TrainConfig.model_validate(TRAIN | {"wandb": "project"})
    for _ in range(2):
        logs = Logs(tmp_path, config, "fingerprint")
        logs.write(TRAIN_LOG, [{"step": 3, "loss": 1.5, "validation": {"web": {"loss": 2.0, "loss_stderr": None}}}])
        logs.write(PROBES, [{"step": 3, "task": "piqa", "label": "PIQA", "acc": 0.5}])
        logs.sync()
        logs.close()
    first, second = runs
    assert first.logged == [(3, {"train/loss": 1.5, "train/validation/web/loss": 2.0}), (3, {"probe/piqa/acc": 0.5})]
    assert first.finished
    assert first.options["project"] == "project"
    assert first.options["resume"] == "allow"
    assert first.options["id"] == second.options["id"]
    assert len((tmp_path / TRAIN_LOG).read_text().splitlines()) == 2


def test_a_service_that_cannot_start_is_an_error_before_the_first_step(tmp_path, monkeypatch):
    config = TrainConfig.model_validate(TRAIN | {"wandb": "project"})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"train.wandb: expected the package wandb.*pip install wandb"):
        Logs(tmp_path, config, "")

    def init(**_options):
        raise RuntimeError("no key")

    fake = types.ModuleType("wandb")
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(TrainingError, match=r"cannot start a run of project 'project' \(no key\): log in"):
        Logs(tmp_path, config, "")


def test_the_meter_counts_steps_and_leaves_pauses_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("trainer.meter.time.perf_counter", lambda: now[0])
    meter = Meter(tokens=1000, flops=500, ranks=2, peak=Peak("x", 1e6, 5e5))
    meter.restart(0.0)
    now[0] += 1.0
    assert meter.step(0.1)["tokens_per_s"] == 1000
    now[0] += 11.0
    meter.skip(10.0)
    found = meter.step(0.2)
    assert found["tokens_per_s"] == 1000
    assert found["mfu"] == pytest.approx(1000 * 500 / 2 / 1e6)
    assert found["mfu_of_measured"] == pytest.approx(2 * found["mfu"])
    assert found["data_wait"] == pytest.approx(0.1)
    meter.restart(0.2)
    now[0] += 4.0
    assert meter.step(0.2)["tokens_per_s"] == 250
    assert meter.step(0.2)["data_wait"] == 0
