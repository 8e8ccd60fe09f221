"""Run by each rank of a torchrun session: tensor ranks compute what one does."""

from __future__ import annotations

import torch
import torch.distributed as dist
from toy_training import SHAPE

from trainer.linear import TensorParallel
from trainer.model import Llama
from trainer.shape import ModelConfig

VARIANTS = [{}, {"tied": False, "qk_norm": True}, {"bias": True, "activation": "gelu", "head_dim": 12}]


def _compare(variant: dict, parallel: TensorParallel, documents: bool, checkpointing: bool) -> None:
    """Raise AssertionError where this rank's part differs from the whole model's."""
    shape = ModelConfig(**{**SHAPE, **variant})
    whole = Llama(shape, 128, seed=4)
    part = Llama(shape, 128, seed=4, parallel=parallel, checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # norms and biases count too
        for name, parameter in whole.canonical_parameters().items():
            if parameter.dim() < 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
                other = part.canonical_parameters()[name]
                other.copy_(parallel.share(parameter, 0) if hasattr(other, "tp_dim") else parameter)
    ids = torch.randint(0, 128, (2, 24), generator=generator)
    targets = ids.roll(-1, 1)
    segments = (torch.arange(24) // 9).int().expand(2, 24).contiguous() if documents else None
    losses = [model(ids, targets, segments) for model in (whole, part)]
    for loss in losses:
        loss.backward()
    assert torch.allclose(*losses, atol=1e-6), losses
    assert torch.allclose(whole(ids), part(ids), atol=1e-5)
    cut = 0
    for (name, one), other in zip(whole.named_parameters(), part.parameters(), strict=True):
        wanted, weight = one.grad, one.detach()
        if hasattr(other, "tp_dim"):
            assert other.model_parallel
            wanted, weight = (parallel.share(x, other.tp_dim) for x in (wanted, weight))
            cut += 1
        assert torch.equal(other, weight), name
        assert torch.allclose(other.grad, wanted, atol=1e-6), name
    assert cut == shape.num_layers * (12 if shape.bias else 7)


def compare() -> None:
    """All ranks as one tensor group: outputs, gradients and first weights are those of the whole model."""
    parallel = TensorParallel(dist.group.WORLD, dist.get_rank(), dist.get_world_size())
    for number, variant in enumerate(VARIANTS):
        _compare(variant, parallel, documents=number == 1, checkpointing=number == 2)
