"""The chunked loss of a linear head is the plain formula, in value, gradient and memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from trainer import loss  # noqa: E402
from trainer.loss import IGNORE, linear_cross_entropy, token_nll  # noqa: E402


def drawn(rows: int, width: int, vocab: int, seed: int, ignored: float = 0.3):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return hidden, weight, targets


def plain(hidden, weight, targets, z_loss):
    logits = hidden @ weight.t()
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    z = torch.where(targets != IGNORE, logits.logsumexp(-1).square(), 0)
    return (nll + z_loss * z).sum() / len(targets), nll


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(2, 30), st.integers(1, 200), st.sampled_from([0.0, 1e-4, 0.1]),
    st.sampled_from([0.0, 0.3, 1.0]), st.floats(0.01, 100), st.integers(0, 10**6),
)  # fmt: skip
def test_any_cut_equals_the_plain_formula(rows, width, vocab, most, z_loss, ignored, scale, seed):
    hidden, weight, targets = drawn(rows, width, vocab, seed, ignored)
    wanted, nll = plain(hidden, weight, targets, z_loss)
    gradients = torch.autograd.grad(wanted * scale, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MAX_LOGITS", {"cpu": most})
        found = linear_cross_entropy(hidden, weight, targets, z_loss)
        ours = torch.autograd.grad(found * scale, (hidden, weight))
        with torch.no_grad():
            evaluated = linear_cross_entropy(hidden, weight, targets, z_loss)
        each = token_nll(hidden, weight, targets)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    assert evaluated.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    assert torch.allclose(each, nll, atol=1e-5)
    assert not each.requires_grad
    for mine, theirs in zip(ours, gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * scale, rtol=1e-4)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("grad", [True, False])
def test_the_logits_are_never_whole(monkeypatch, grad):
    monkeypatch.setattr(loss, "MAX_LOGITS", {"cpu": 4000})
    hidden, weight, targets = drawn(200, 4, 500, 0)
    with Largest() as seen, torch.set_grad_enabled(grad):
        total = linear_cross_entropy(hidden, weight, targets)
        token_nll(hidden, weight, targets)
        if grad:
            total.backward()
    assert seen.elements <= 4000


def test_only_what_is_wanted_is_differentiated():
    hidden, weight, targets = drawn(10, 4, 12, 0)
    linear_cross_entropy(hidden.detach(), weight, targets).backward()
    assert hidden.grad is None
    assert weight.grad is not None
    only = weight.grad.clone()
    weight.grad = None
    linear_cross_entropy(hidden, weight.detach(), targets).backward()
    assert weight.grad is None
    assert hidden.grad is not None
    linear_cross_entropy(hidden, weight, targets).backward()
    assert torch.equal(weight.grad, only)


def test_a_second_backward_pass_is_refused():
    hidden, weight, targets = drawn(10, 4, 12, 0)
    total = linear_cross_entropy(hidden, weight, targets)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_autocast_keeps_loss_and_gradients_of_confident_targets(dtype, near):
    """Loss scaling as fp16 needs it; rows that are nearly certain keep a gradient, which 16 bits alone would lose."""
    hidden, weight, targets = drawn(200, 16, 64, 1)
    with torch.no_grad():
        certain = targets[:50].clamp_min(0)
        hidden[:50] = F.normalize(weight[certain]) * 2.5
    wanted = torch.autograd.grad(plain(hidden, weight, targets, 1e-3)[0], (hidden, weight))
    with torch.autocast("cpu", dtype):
        total = linear_cross_entropy(hidden, weight, targets, 1e-3)
        assert token_nll(hidden, weight, targets).dtype == torch.float32
    found = torch.autograd.grad(total * 65536.0, (hidden, weight))
    assert total.dtype == torch.float32
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert mine.isfinite().all()
        assert (mine / 65536 - theirs).norm() < near * theirs.norm()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 300), st.integers(1, 20_000))
def test_pieces_cover_every_row_and_are_equal_where_they_can_be(count, vocab, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MAX_LOGITS", {"cpu": most})
        pieces = loss._chunks(count, vocab, torch.device("cpu"))
    sizes = [piece.stop - piece.start for piece in pieces]
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(count))
    assert all(0 < size <= max(1, most // vocab) for size in sizes)
    assert len(set(sizes[:-1])) <= 1


def test_pieces_of_a_usual_batch_are_equal_and_whole_tiles():
    for tokens in (64 * 1024, 16 * 2048, 48 * 1024):
        sizes = {piece.stop - piece.start for piece in loss._chunks(tokens, 50304, torch.device("cuda"))}
        assert len(sizes) == 1
        assert sizes.pop() % 128 == 0
