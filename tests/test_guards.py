"""Configurations that would train something else are refused, with the reason and what to set; the rest passes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError
from toy_training import ROOT

from trainer.config import TrainConfig

BASE = {"ranks": 2, "global_batch": 8}


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"deepspeed": {"bf16": {"enabled": True}}}, "real optimizer step on zero gradients", "precision: bf16"),
        ({"deepspeed": {"fp16": {"enabled": True}}}, "real optimizer step on zero gradients", "precision: bf16"),
        ({"deepspeed": {"bf16": {"enabled": True}}, "zero_stage": 2}, "rounded to 16 bits", "precision: bf16"),
        ({"pipeline": 2}, "the norm of one stage", "zero_stage: 1"),
        ({"pipeline": 2, "zero_stage": 2}, "cannot be sharded", "zero_stage: 1"),
        ({"pipeline": 2, "zero_stage": 3}, "cannot be sharded", "zero_stage: 1"),
        ({"deepspeed": {"sequence_parallel_size": 2}}, "weights drift apart", "train.tensor"),
        ({"deepspeed": {"tensor_parallel": {"autotp_size": 2}}}, "breaks with pipelines", "train.tensor"),
        ({"deepspeed": {"optimizer": {"type": "Muon"}}}, "clips the orthogonalised update", "train.optimizer"),
        ({"deepspeed": {"optimizer": {"type": "AdamW"}}}, "compile C", "train.optimizer"),
        ({"optimizer": "muon", "zero_stage": 1}, "a shard of one is another matrix", "zero_stage: 0"),
        ({"optimizer": "muon", "tensor": 2}, "a shard of one is another matrix", "tensor: 1"),
        ({"optimizer": "muon", "pipeline": 2, "zero_stage": 1}, "a shard of one", "pipeline: 1"),
        ({"precision": "fp16", "zero_stage": 1}, "multiplied by the loss scale", "precision: bf16"),
        ({"precision": "fp16", "tensor": 2}, "overflow by its own shard", "precision: bf16"),
        ({"offload": "optimizer"}, "would ignore it", "zero_stage to 1"),
        ({"offload": "parameters", "zero_stage": 2}, "only ZeRO 3", "zero_stage: 3"),
        ({"offload": "optimizer", "zero_stage": 1, "tensor": 2}, "not proven", "tensor: 1"),
        ({"deepspeed": {"gradient_clipping": 1.0}}, "clips at 1.0", "train.clip"),
        ({"deepspeed": {"gradient_clipping": None}}, "clips at 1.0", "train.clip"),
        ({"deepspeed": {"train_batch_size": 8}}, "decided by the trainer", "train.global_batch"),
        ({"deepspeed": {"managed_gradient_accumulation": False}}, "decided by the trainer", "train.global_batch"),
        ({"deepspeed": {"torch_autocast": {"enabled": True}}}, "decided by the trainer", "precision: bf16"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "decided by the trainer", "train.zero_stage"),
        ({"deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}}, "compiles C", "offload"),
        ({"deepspeed": {"zero_optimization": {"offload_param": {"device": "cpu"}}}}, "compiles C", "offload"),
        ({"deepspeed": {"zero_optimization": {"compute_grad_norm": False}}}, "nothing is clipped", "remove the key"),
        ({"deepspeed": {"scheduler": {"type": "WarmupLR"}}}, "decided by the trainer", "train.schedule"),
        ({"deepspeed": {"activation_checkpointing": {}}}, "decided by", "train.activation_checkpointing"),
        ({"deepspeed": {"pipeline": {"stages": 2}}}, "decided by", "train.pipeline"),
        ({"deepspeed": {"checkpoint": {"load_universal": True}}}, "its own checkpoints", "train.checkpoint_every"),
        ({"deepspeed": {"amp": {"enabled": True}}}, "apex", "precision: bf16"),
        ({"deepspeed": {"curriculum_learning": {"enabled": True}}}, "cut the sequences", "remove the key"),
        ({"deepspeed": {"data_efficiency": {"enabled": True}}}, "replace the batches", "remove the key"),
        ({"deepspeed": {"compression_training": {}}}, "change the weights", "remove the key"),
    ],
)
def test_refused_with_the_reason_and_the_remedy(changes, reason, remedy):
    with pytest.raises(ValidationError) as refusal:
        TrainConfig.model_validate(BASE | changes)
    assert reason in str(refusal.value)
    assert remedy in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"zero_stage": 3, "offload": "parameters"},
        {"pipeline": 2, "zero_stage": 1},
        {"tensor": 2, "zero_stage": 3},
        {"optimizer": "muon", "clip": 1.0},
        {"precision": "fp16"},
        {"deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}, "bf16": {"enabled": False}}, "zero_stage": 1},
    ],
)
def test_sound_configurations_pass(changes):
    TrainConfig.model_validate(BASE | changes)


def test_refusing_needs_no_torch():
    code = (
        "import sys\nfrom trainer.config import TrainConfig\n"
        "try: TrainConfig(pipeline=2, ranks=2)\nexcept ValueError: pass\nelse: sys.exit(2)\n"
        "sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
