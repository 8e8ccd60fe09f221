"""The `train:` section: wrong settings are refused in one line, and what a run is enters its fingerprint."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pydantic import ValidationError
from toy_training import ROOT, SHAPE

from trainer.config import EXECUTION_FIELDS, TrainConfig
from trainer.optim import learning_rate

SHARED = ROOT.parent / "shared"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deepspeed": {"bf16": {"enabled": True}}}, "real optimizer step on zero gradients"),
        ({"deepspeed": {"fp16": {"enabled": True}}, "zero_stage": 1}, "rounded to 16 bits"),
        ({"deepspeed": {"sequence_parallel_size": 2}}, "drift apart"),
        ({"deepspeed": {"optimizer": {"type": "Muon"}}}, "orthogonalised"),
        ({"deepspeed": {"gradient_clipping": None}}, "set train.clip"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "set train.zero_stage"),
        ({"deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}}, "compiles C"),
        ({"deepspeed": {"tensor_parallel": {"autotp_size": 2}}}, "as if they were whole"),
        ({"steps": 3, "tokens": 100}, "found both"),
        ({"ranks": 3}, "must divide global_batch"),
        ({"model": "tinny"}, "expected one of tiny"),
        ({"model": SHAPE | {"num_kv_heads": 3}}, "must divide num_heads"),
        ({"learning_rate": 0.1}, "Extra inputs"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"global_batch": 8} | changes)


def test_config_loads_without_torch():
    code = "import trainer.config, sys; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_only_the_engine_imports_deepspeed():
    """No module of the project but trainer/engine.py imports DeepSpeed, at the top or inside a function."""
    pattern = re.compile(r"^\s*(?:import|from)\s+deepspeed\b", re.MULTILINE)
    files = [path for folder in ("pipeline", "stages", "trainer") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in files if pattern.search(path.read_text())] == ["engine.py"]


def test_fingerprint_covers_results_and_not_execution():
    base = TrainConfig(steps=5)
    assert base.fingerprint("d") == TrainConfig(steps=5, zero_stage=1, keep_last=7, micro_batch=1).fingerprint("d")
    assert base.fingerprint("d") == TrainConfig(tokens=5 * 16 * 256).fingerprint("d")
    others = [TrainConfig(steps=6), TrainConfig(steps=5, lr=1e-4), TrainConfig(steps=5, model="15m")]
    assert len({config.fingerprint("d") for config in [base, *others]} | {base.fingerprint("e")}) == 5


def test_schedules():
    cosine = TrainConfig(steps=100, lr=0.01, warmup=10, min_lr_ratio=0.1)
    assert learning_rate(5, cosine) == pytest.approx(0.005)
    assert learning_rate(10, cosine) == pytest.approx(0.01)
    assert learning_rate(55, cosine) == pytest.approx(0.0055)
    assert learning_rate(100, cosine) == pytest.approx(0.001)
    wsd = TrainConfig(steps=100, lr=0.01, warmup=10, schedule="wsd", decay_share=0.2, min_lr_ratio=0)
    assert [round(learning_rate(step, wsd), 6) for step in (50, 80, 90, 100)] == [0.01, 0.01, 0.005, 0.0]


def test_every_field_is_on_the_page_and_told_apart():
    """docs/manifest.md names each field of `train:`; what is execution is a field."""
    page = (ROOT / "docs" / "manifest.md").read_text()
    assert [name for name in TrainConfig.model_fields if f"`{name}`" not in page] == []
    assert set(TrainConfig.model_fields) >= EXECUTION_FIELDS
