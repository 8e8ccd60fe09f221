"""What is decided for a configuration before it runs: DeepSpeed's settings, compilation, and how stages are cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import hardware, policy
from trainer.config import TrainConfig
from trainer.guards import Refused
from trainer.policy import compiles, deepspeed_config
from trainer.shape import ModelConfig, named
from trainer.topology import stage_blocks


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"model": "124m", "seq_len": 1024, "global_batch": 512} | changes)


def test_no_timer_waits_for_the_device_and_buffers_fit_the_model():
    deepspeed = pytest.importorskip("deepspeed")
    small = deepspeed_config(config(zero_stage=1), 1_000)
    assert (
        small["zero_optimization"]["reduce_bucket_size"] == small["zero_optimization"]["allgather_bucket_size"] == 1000
    )
    large = deepspeed_config(config(zero_stage=1), 10**10)
    assert large["zero_optimization"]["reduce_bucket_size"] == policy.BUCKET
    asked = config(zero_stage=1, deepspeed={"zero_optimization": {"reduce_bucket_size": 7}})
    assert deepspeed_config(asked, 1_000)["zero_optimization"]["reduce_bucket_size"] == 7
    rows = small["train_micro_batch_size_per_gpu"] * small["gradient_accumulation_steps"]
    parsed = deepspeed.runtime.config.DeepSpeedConfig({**small, "train_batch_size": rows})
    assert not parsed.timers_config.enabled
    assert parsed.zero_config.reduce_bucket_size == 1_000
    assert not parsed.wall_clock_breakdown
    with pytest.raises(Refused):
        deepspeed_config(config().model_copy(update={"optimizer": "muon", "zero_stage": 1}), 1)


def test_long_trainings_on_a_gpu_are_compiled(monkeypatch):
    long = {"tokens": 2_500_000_000}
    assert not compiles(config(**long), 50304)  # no GPU here
    assert compiles(config(compile=True, steps=1), 50304)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(policy, "can_compile", lambda: True)
    assert compiles(config(**long), 50304)
    assert not compiles(config(steps=10), 50304)
    assert not compiles(config(compile=False, **long), 50304)
    assert not compiles(config(zero_stage=3, **long), 50304)
    assert not compiles(config(ranks=2, tensor=2, **long), 50304)
    assert compiles(config(ranks=2, tensor=2, compile=True, **long), 50304)
    monkeypatch.setattr(policy, "can_compile", lambda: False)
    assert not compiles(config(**long), 50304)


def test_compilation_needs_triton_and_a_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name == "clang")
    assert hardware.can_compile()
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert not hardware.can_compile()
    monkeypatch.setenv("CC", "cc")
    assert hardware.can_compile()
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    assert not hardware.can_compile()


def splits(blocks: int, stages: int) -> list[list[int]]:
    if stages == 1:
        return [[blocks]]
    return [[first, *rest] for first in range(1, blocks - stages + 2) for rest in splits(blocks - first, stages - 1)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(64, 300_000))
def test_no_other_cut_has_a_faster_slowest_stage(layers, stages, vocab):
    stages = min(stages, layers)
    shape = ModelConfig(hidden_size=64, num_layers=layers, num_heads=4, num_kv_heads=2, intermediate_size=176)
    head = 6 * vocab * 64
    block = (shape.flops_per_token(vocab, 128) - head) / layers

    def slowest(cut: list[int]) -> float:
        return max(*(count * block for count in cut), cut[-1] * block + head)

    found = stage_blocks(shape, vocab, 128, stages)
    assert len(found) == stages
    assert sum(found) == layers
    assert min(found) >= 1
    assert slowest(found) <= min(map(slowest, splits(layers, stages))) * (1 + 1e-9)
    assert max(found[:-1], default=0) - min(found[:-1], default=0) <= 1


def test_a_large_vocabulary_takes_blocks_from_the_last_stage():
    assert stage_blocks(named("124m"), 50304, 1024, 2) == [8, 4]
    assert stage_blocks(named("7b"), 32000, 4096, 4) == [8, 8, 8, 8]
