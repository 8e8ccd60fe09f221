"""The start-up table: what is counted agrees with the model, with the index, and with a measured peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_training import ROOT

from trainer import estimate, hardware
from trainer.config import TrainConfig
from trainer.model import Llama
from trainer.rundir import TrainingError
from trainer.shape import ModelConfig

GIB = 1 << 30
BASE = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 176}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"model": "124m", "seq_len": 1024, "global_batch": 64, "micro_batch": 8} | changes
    )


def saved_bytes(shape: ModelConfig, rows: int, half: bool, checkpointing: bool) -> int:
    """Bytes that the autograd graph of a forward pass holds, parameters left out."""
    model = Llama(shape, 128, checkpointing=checkpointing)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(rows, 64, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):  # noqa: SIM117
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("more", [{}, {"qk_norm": True}, {"num_kv_heads": 4}, {"head_dim": 32}])
def test_activations_are_what_a_block_keeps(half, more):
    for checkpointing in (False, True):
        sizes = {}
        for layers in (2, 3):
            shape = ModelConfig.model_validate(BASE | more | {"num_layers": layers})
            sizes[layers] = [saved_bytes(shape, rows, half, checkpointing) for rows in (1, 5)]
        block = [sizes[3][i] - sizes[2][i] for i in (0, 1)]
        token = (block[1] - block[0]) / (4 * 64)  # without what does not grow with the batch: weights in 16 bits
        counted = estimate.activation_bytes(ModelConfig.model_validate(BASE | more), 1, half)[checkpointing]
        assert counted == pytest.approx(token, rel=0.02)


def test_memory_follows_the_rules_of_zero():
    plain = estimate.memory(config(), 50304, True, True).device
    held = 4 * config().shape.parameters(50304)
    assert (plain["parameters"], plain["gradients"], plain["optimizer"]) == (held, held, 2 * held)
    for stage, parameters, optimizer in ((1, held, 3 * held / 8), (2, held, 3 * held / 8), (3, held / 8, 3 * held / 8)):
        part = estimate.memory(config(ranks=8, zero_stage=stage), 50304, True, True).device
        assert part["parameters"] == pytest.approx(parameters, rel=1e-6)
        assert part["optimizer"] == pytest.approx(optimizer, rel=1e-6)
    moved = estimate.memory(config(ranks=8, zero_stage=1, offload="optimizer"), 50304, True, True)
    assert "optimizer" not in moved.device
    assert moved.host["optimizer"] > 3 * held / 8


@pytest.mark.parametrize(
    "changes",
    [{"activation_checkpointing": True}, {"micro_batch": 4}, {"ranks": 2, "tensor": 2}, {"ranks": 8, "zero_stage": 1},
     {"optimizer": "muon"}, {"ranks": 4, "pipeline": 4, "zero_stage": 1, "micro_batch": 16, "model": "7b"}],
)  # fmt: skip
def test_what_is_meant_to_save_memory_saves_it(changes):
    base = {key: value for key, value in changes.items() if key in ("model", "micro_batch")}
    before = config(**base | {"micro_batch": 8 if changes.get("micro_batch") == 4 else base.get("micro_batch", 8)})
    less, more = (estimate.memory(c, 32768, True, False).total for c in (config(**changes), before))
    assert less < more


def test_too_little_memory_says_what_to_change():
    asked = config(ranks=8)
    need = estimate.memory(asked, 50304, True, True)
    estimate.check(asked, need, 40 * GIB, 400 * GIB, 8, True)
    with pytest.raises(TrainingError, match=r"activations .* on its GPU: try train.micro_batch: 4; .*zero_stage: 1"):
        estimate.check(asked, need, 8 * GIB, 400 * GIB, 8, True)
    with pytest.raises(TrainingError, match="too little host memory: the 8 ranks"):
        estimate.check(asked, need, 40 * GIB, 20 * GIB, 8, True)
    with pytest.raises(TrainingError, match="for each of 8 ranks"):
        estimate.check(asked, estimate.memory(asked, 50304, False, False), 40 * GIB, 40 * GIB, 8, False)
    small = config(model="tiny", ranks=8, seq_len=64)
    with pytest.raises(TrainingError, match="for each of 8 ranks: use fewer ranks on a machine"):
        estimate.check(small, estimate.memory(small, 4096, False, False), 4 * GIB, 4 * GIB, 8, False)


def test_epochs_hours_and_table():
    sources = {"web": {"train": {"tokens": 3_000_000}}, "code": {"train": {"tokens": 1_000_000}}, "none": {}}
    index: Any = SimpleNamespace(sources=sources)
    asked = config(tokens=4 * 65536 * 20)
    total = estimate.total_tokens(asked)
    assert total == 4 * 65536 * 20
    assert estimate.epochs(asked, index) == pytest.approx(dict.fromkeys(("web", "code"), total / 4e6))
    mixed = config(tokens=total, mix={"web": 1, "code": 3})
    assert estimate.epochs(mixed, index) == pytest.approx({"web": total / 4 / 3e6, "code": total * 3 / 4 / 1e6})
    peak = hardware.Peak("NVIDIA H200", 989.4e12, 790e12)
    work = asked.shape.flops_per_token(50304, 1024) * total
    assert estimate.hours(asked, 50304, peak, True) == pytest.approx(work / 989.4e12 / 0.40 / 3600)
    need = estimate.memory(asked, 50304, True, True)
    rows = estimate.table(asked, index, 50304, need, peak, 139 * GIB, True, True)
    shown = {name: value for _, name, value in rows}
    assert shown["parameters"] == "494 MB"  # of memory; the first row of that name counts them
    assert rows[0][2] == f"{asked.shape.parameters(50304):,}"
    assert "specified 989 TFLOP/s, measured 790 TFLOP/s" in shown["device"]
    assert shown["expected"].endswith("at an assumed MFU of 40%, without evaluation")
    assert "20 for each parameter" in shown["compute-optimal"]


def test_peaks_are_known_by_whole_names(monkeypatch):
    monkeypatch.setattr(hardware, "measure", lambda dtype: 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, tera in (("NVIDIA H200", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 80GB HBM3", 989.4),
                       ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA A10", 125.0), ("NVIDIA A10G", None),
                       ("NVIDIA L40S", 362.0), ("NVIDIA GeForce RTX 2060", None)):  # fmt: skip
        hardware.peak.cache_clear()
        monkeypatch.setattr(hardware, "device_name", lambda name=name: name)
        assert hardware.peak(torch.bfloat16).specified == (tera and tera * 1e12), name
        assert hardware.peak(torch.float32).specified is None
    hardware.peak.cache_clear()


def test_the_measured_peak_is_a_speed():
    assert 1e8 < hardware.measure(torch.float32, 128, 3) < 1e16
    assert hardware.available_host_memory() > 1e6


MEASURE = """
import json, resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from trainer import estimate
from trainer.config import TrainConfig
from trainer.engine import Engine, start_ranks, stop_ranks
from trainer.reader import Batch
config = TrainConfig.model_validate_json(sys.argv[1])
start_ranks()
engine = Engine(config, 8192)
ids = np.random.default_rng(0).integers(0, 8192, (config.rank_micro_batch, config.seq_len))
for step in (1, 2):
    engine.step([Batch(ids, ids)] * config.accumulation, step).loss
stop_ranks()
half = config.precision == "bf16"
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                  estimate.memory(config, 8192, half, False).total]))
"""


@pytest.mark.parametrize("changes", [{}, {"zero_stage": 3}, {"precision": "bf16", "activation_checkpointing": True}],
                         ids=["plain", "zero 3", "bf16, checkpointing"])  # fmt: skip
def test_the_estimate_is_near_the_measured_peak(changes):
    """The whole process, libraries included, with activations and parameters of similar size: within a quarter."""
    shape = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8, "intermediate_size": 1376}
    asked = {"model": shape, "seq_len": 256, "global_batch": 8, "micro_batch": 8, "steps": 2, **changes}
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", MEASURE, json.dumps(asked)], capture_output=True, text=True, cwd=ROOT,
                          env=environment, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    measured, counted = json.loads(done.stdout.splitlines()[-1])
    print(f"{changes}: measured {measured >> 20} MiB, counted {counted >> 20} MiB")
    assert 0.8 < measured / counted < 1.25
