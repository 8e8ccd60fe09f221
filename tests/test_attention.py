"""Attention equals the plain formula, and a row of documents equals each document alone, whatever the kernel."""

from __future__ import annotations

import gc
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import SHAPE

torch = pytest.importorskip("torch")

from torch.nn.attention.flex_attention import BlockMask  # noqa: E402

from trainer import attention  # noqa: E402
from trainer.attention import attend, block_mask, choose, dense_mask, document_mask, spans  # noqa: E402
from trainer.model import Llama  # noqa: E402
from trainer.shape import ModelConfig  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def heads(rows: int, length: int, queries: int, keys: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randn(rows, length, count, 8, generator=generator)  # noqa: E731
    return draw(queries), draw(keys), draw(keys)


def slow(q, k, v, segments):
    """Softmax attention of one query at a time."""
    out = torch.zeros_like(q)
    for row in range(q.shape[0]):
        for head in range(q.shape[2]):
            key_head = head * k.shape[2] // q.shape[2]
            for t in range(q.shape[1]):
                seen = [s for s in range(t + 1) if segments[row, s] == segments[row, t]]
                scores = torch.stack([q[row, t, head] @ k[row, s, key_head] for s in seen]) / math.sqrt(q.shape[3])
                out[row, t, head] = scores.softmax(0) @ torch.stack([v[row, s, key_head] for s in seen])
    return out


def segments_from(lengths: list[list[int]]) -> torch.Tensor:
    return torch.tensor([[n for n, size in enumerate(row) for _ in range(size)] for row in lengths], dtype=torch.int32)


SEGMENTS = segments_from([[3, 5, 1, 7], [16], [1, 1, 14]])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (4, 2), (4, 1)])
def test_the_plain_formula(queries, keys):
    q, k, v = heads(3, 16, queries, keys)
    assert torch.allclose(attend(q, k, v), slow(q, k, v, torch.zeros(3, 16)), atol=1e-5)
    wanted = slow(q, k, v, SEGMENTS)
    assert torch.allclose(attend(q, k, v, dense_mask(SEGMENTS)), wanted, atol=1e-5)
    flex = block_mask(SEGMENTS)
    assert isinstance(flex, BlockMask)
    with torch.no_grad():
        assert torch.allclose(attend(q, k, v, flex), wanted, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 99))
def test_spans_cut_rows_and_documents(lengths, offset):
    """Bounds are the running sum of the lengths, whatever numbers the segments carry."""
    width = max(map(sum, lengths))
    lengths = [[*row, width - sum(row)] if sum(row) < width else row for row in lengths]
    found = spans(segments_from(lengths) * 3 + offset)
    flat = [size for row in lengths for size in row]
    assert found.bounds.dtype == torch.int32
    assert found.longest == width
    assert found.bounds.tolist() == [sum(flat[:n]) for n in range(len(flat) + 1)]


def test_variable_length_attention_is_called_with_the_documents(monkeypatch):
    """The GPU kernel replaced by one on each span: shapes, bounds and the causal window are what it wants."""

    def kernel(q, k, v, from_q, from_k, longest_q, longest_k, *, window_size, enable_gqa):
        assert from_q is from_k
        assert longest_q == longest_k == 16
        assert window_size == (-1, 0)
        assert enable_gqa == (q.shape[1] != k.shape[1])
        pieces = zip(from_q[:-1].tolist(), from_q[1:].tolist(), strict=True)
        return torch.cat([attend(q[None, a:b], k[None, a:b], v[None, a:b])[0] for a, b in pieces])

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    q, k, v = heads(3, 16, 4, 2)
    found = attend(q, k, v, spans(SEGMENTS))
    assert torch.allclose(found, attend(q, k, v, dense_mask(SEGMENTS)), atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_row_of_documents_is_each_document_alone(qk_norm):
    model = Llama(ModelConfig(**SHAPE, qk_norm=qk_norm), 128, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() == 2 else 1)
    lengths = [[10, 1, 21], [4, 28]]
    ids = torch.randint(0, 128, (2, 32), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    together = model(ids, targets, segments_from(lengths))
    together.backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total = 0.0
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            piece = slice(start, start + size)
            loss = model(ids[row : row + 1, piece], targets[row : row + 1, piece]) * size / ids.numel()
            loss.backward()
            total, start = total + loss.item(), start + size
    assert together.item() == pytest.approx(total, abs=1e-5)
    assert all(torch.allclose(p.grad, w, atol=1e-5) for p, w in zip(model.parameters(), wanted, strict=True))


def test_a_mask_is_built_once_for_a_batch_and_forgotten_with_it(monkeypatch):
    built = []
    monkeypatch.setattr(attention, "dense_mask", lambda segments: built.append(1) or dense_mask(segments))
    segments = SEGMENTS.clone()
    first = document_mask(segments, "auto", torch.float32, 8)
    assert document_mask(segments, "auto", torch.float32, 8) is first
    assert len(built) == 1
    segments[0, 0] = 9  # the same tensor with other documents
    second = document_mask(segments, "auto", torch.float32, 8)
    assert len(built) == 2
    assert not torch.equal(first, second)
    held = len(attention._masks)
    flex = block_mask(segments)
    attention._masks[segments] = (("flex", 0), flex)
    del segments, flex
    gc.collect()
    assert len(attention._masks) == held - 1


def test_documents_are_counted_before_they_go_to_the_gpu(monkeypatch):
    """With a stand-in for the GPU: the mask of the moved segments is there, and nothing is built from them again."""
    monkeypatch.setattr(attention, "choose", lambda *_: "varlen")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    there = SEGMENTS.clone()
    attention.announce(SEGMENTS, there, "auto", torch.bfloat16, 64)
    monkeypatch.setattr(attention, "spans", lambda segments: pytest.fail("built from the moved segments"))
    found = document_mask(there, "auto", torch.bfloat16, 64)
    assert torch.equal(found.bounds, spans(SEGMENTS).bounds)
    assert found.longest == SEGMENTS.shape[1]


def test_cudnn_is_asked_for_heads_that_it_knows(monkeypatch):
    asked = []
    monkeypatch.setattr(attention, "first_cudnn", lambda: asked.append(1))
    monkeypatch.setattr(attention, "_cudnn_first", lambda device: True)

    class Query:
        device = GPU

        def __init__(self, dtype, width):
            self.dtype, self.shape = dtype, (1, 4, 16, width)

    for dtype, width, expected in ((torch.bfloat16, 64, 1), (torch.bfloat16, 128, 2), (torch.bfloat16, 8, 2),
                                   (torch.float32, 64, 2)):  # fmt: skip
        attention.preferred(Query(dtype, width))
        assert len(asked) == expected
    with torch.no_grad():
        attention.preferred(Query(torch.bfloat16, 64))
    assert len(asked) == 2


def test_the_kernel_follows_device_precision_and_head():
    assert choose("auto", CPU, torch.float32, 64) == choose("sdpa", CPU, torch.bfloat16, 64) == "dense"
    assert choose("auto", GPU, torch.bfloat16, 64) == choose("auto", GPU, torch.float16, 256) == "varlen"
    assert choose("auto", GPU, torch.float32, 64) == choose("flex", GPU, torch.bfloat16, 64) == "flex"
    assert choose("auto", GPU, torch.float32, 8) == choose("flex", GPU, torch.bfloat16, 8) == "dense"
    assert choose("auto", GPU, torch.bfloat16, 60) == choose("auto", GPU, torch.bfloat16, 264) == "flex"
    assert choose("sdpa", GPU, torch.bfloat16, 64) == "dense"
    with pytest.raises(ValueError, match=r"flex needs a GPU.*expected auto or sdpa"):
        choose("flex", CPU, torch.float32, 64)


def test_flash_attention_3_is_found_without_being_imported(monkeypatch):
    assert attention.activate("auto") == "SDPA (CPU)"
    active = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert attention.activate("auto") == "SDPA (cuDNN)"
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: name == "flash_attn_interface")
    monkeypatch.setattr(attention, "activate_flash_attention_impl", active.append)
    assert attention.activate("sdpa") == "SDPA (cuDNN)"
    assert not active
    assert attention.activate("auto") == "SDPA (FlashAttention-3)"
    assert active == ["FA3"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert attention.activate("auto") == "SDPA (FlashAttention-2)"


def test_the_order_of_kernels_compiles_without_a_break(monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setattr(attention, "preferred", lambda q: attention.first_cudnn())
    q, k, v = (x.requires_grad_() for x in heads(2, 16, 4, 2))
    backend = CompileCounterWithBackend("aot_eager")
    found = torch.compile(attend, backend=backend, fullgraph=True)(q, k, v)
    assert torch.allclose(found, attend(q, k, v), atol=1e-6)
    assert backend.frame_count == 1


def test_any_number_of_documents_compiles_at_most_twice(monkeypatch):
    """The first number as it is, the second as a variable; then no batch compiles anything."""
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setattr(attention, "varlen_attn", lambda q, k, v, bounds, *_, **__: q * bounds.sum())
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, backend=backend, fullgraph=True)
    q, k, v = heads(2, 16, 4, 2)
    for lengths in ([[16], [16]], [[3, 13], [16]], [[4, 4, 8], [8, 8]], [[1] * 16, [2] * 8], [[9, 7], [1] * 16]):
        mask = spans(segments_from(lengths))
        assert torch.equal(compiled(q, k, v, mask), q * mask.bounds.sum())
    assert backend.frame_count <= 2
