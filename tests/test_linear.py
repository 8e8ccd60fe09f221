"""Two tensor ranks compute what one does: outputs, gradients, initial weights."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from toy_training import SHAPE  # noqa: E402

from trainer.linear import ColumnLinear, Linear, RowLinear, TensorParallel  # noqa: E402
from trainer.model import Llama  # noqa: E402
from trainer.shape import ModelConfig  # noqa: E402

VARIANTS = [{}, {"tied": False, "qk_norm": True}, {"bias": True, "activation": "gelu", "head_dim": 12}]
SIZE = 2


def compare(variant: dict, parallel: TensorParallel, documents: bool, checkpointing: bool) -> None:
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


def rank_main(rank: int, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=SIZE)
    parallel = TensorParallel(dist.group.WORLD, rank, SIZE)
    for number, variant in enumerate(VARIANTS):
        compare(variant, parallel, documents=number == 1, checkpointing=number == 2)
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file rendezvous")
def test_two_ranks_equal_one(tmp_path):
    mp.spawn(rank_main, (str(tmp_path / "rendezvous"),), nprocs=SIZE)


def test_shapes_and_marks():
    parallel = TensorParallel(None, 1, 2)
    column, row = ColumnLinear(8, 6, True, parallel), RowLinear(6, 8, True, parallel)
    assert column.weight.shape == (3, 8)
    assert column.bias.shape == (3,)
    assert row.weight.shape == (8, 3)
    assert row.bias.shape == (8,)
    assert (column.weight.tp_dim, column.bias.tp_dim, row.weight.tp_dim) == (0, 0, 1)
    assert not hasattr(row.bias, "tp_dim")
    assert not hasattr(row.bias, "model_parallel")
    assert not hasattr(ColumnLinear(8, 6, False).weight, "tp_dim")
    assert torch.equal(parallel.share(torch.arange(8).view(2, 4), 1), torch.tensor([[2, 3], [6, 7]]))
    assert isinstance(column, Linear)
    assert isinstance(row, torch.nn.Linear)


def test_alone_they_are_plain_linear_layers():
    x = torch.randn(5, 8)
    for layer in (ColumnLinear(8, 6, True), RowLinear(8, 6, True)):
        with torch.no_grad():
            layer.weight.normal_()
            layer.bias.normal_()
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
