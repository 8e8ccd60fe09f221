"""Two tensor ranks compute what one does: outputs, gradients, initial weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from parity_sessions import named  # noqa: E402

from trainer.linear import ColumnLinear, Linear, RowLinear, TensorParallel  # noqa: E402


def test_two_ranks_equal_one():
    """An assertion in the ranks of the session fails all of it."""
    assert named(2, "layers").keys() == {"tensor"}


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
