"""Causal attention in one function, with a kernel for each situation, and the masks that keep it inside documents.

Without documents: torch's scaled dot-product attention, which runs a flash kernel on a GPU (FlashAttention-3 where
its package is installed, cuDNN's on a Hopper GPU else) and on a CPU. With documents: FlashAttention's
variable-length form on a GPU in 16 bits, compiled flex attention on a GPU in fp32 or by choice, and else a dense mask.
What a mask needs is built once for a batch and found again by every layer through the identity of the tensor of
segments. The cost: the dense mask takes batch x T x T bytes, and where the segments are on the GPU alone (in a
pipeline) the number of documents is read back from it once for each batch.

Rotary positions are relative, so they run on through the sequence: a document attends as if it stood alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, current_flash_attention_impl, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.utils.weak import WeakTensorKeyDictionary

Kind = Literal["auto", "sdpa", "flex"]
FLEX_BLOCK = 128
HALF = (torch.float16, torch.bfloat16)
CUDNN_HEADS = (64, 128)
FLEX_HEAD = 16  # narrower heads do not fit its matrix products


@dataclass(frozen=True)
class Spans:
    """Documents of a flattened batch: each from one of `bounds` int32 [n + 1] to the next; none exceeds `longest`."""

    bounds: torch.Tensor
    longest: int


Mask: TypeAlias = torch.Tensor | Spans | BlockMask | None

_masks: Any = WeakTensorKeyDictionary()


def choose(kind: Kind, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The kernel for documents: `varlen`, `flex` or `dense`. Raises ValueError for flex without a GPU."""
    if kind == "flex" and device.type == "cpu":
        raise ValueError("train.attention: flex needs a GPU, found a CPU: expected auto or sdpa")
    if kind == "sdpa" or device.type != "cuda":
        return "dense"
    flash = dtype in HALF and head_dim <= 256 and head_dim % 8 == 0
    if kind == "auto" and flash:
        return "varlen"
    return "flex" if head_dim >= FLEX_HEAD else "dense"


def document_mask(segments: torch.Tensor, kind: Kind, dtype: torch.dtype, head_dim: int) -> Mask:
    """The mask of a batch with `segments` int32 [B, T], for queries of `dtype`; built once for each tensor."""
    kernel = choose(kind, segments.device, dtype, head_dim)
    known = _masks.get(segments)
    if known is None or known[0] != (kernel, segments._version):
        builders: dict[str, Callable[[torch.Tensor], Mask]]
        builders = {"dense": dense_mask, "varlen": spans, "flex": block_mask}
        known = ((kernel, segments._version), builders[kernel](segments))
        _masks[segments] = known
    return known[1]


def announce(here: torch.Tensor, there: torch.Tensor, kind: Kind, dtype: torch.dtype, head_dim: int) -> None:
    """Build the mask of segments on a GPU (`there`) from their copy in host memory (`here`).

    Only where the GPU would have to be asked for the number of documents, which would wait for all that is queued.
    """
    if choose(kind, there.device, dtype, head_dim) != "varlen":
        return
    found = spans(here)
    bounds = found.bounds.pin_memory().to(there.device, non_blocking=True)
    _masks[there] = (("varlen", there._version), Spans(bounds, found.longest))


def dense_mask(segments: torch.Tensor) -> torch.Tensor:
    """Which key each query sees, bool [B, 1, T, T]."""
    return (segments[:, :, None] == segments[:, None, :]).tril()[:, None]


def spans(segments: torch.Tensor) -> Spans:
    """Where documents begin in the flattened batch; a row always begins one."""
    rows, length = segments.shape
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    bounds = F.pad(first.flatten().nonzero().flatten(), (0, 1), value=rows * length)
    return Spans(bounds.int(), length)


def block_mask(segments: torch.Tensor) -> BlockMask:
    """The block mask of flex attention."""
    documents = segments.detach()  # another object: the mask must not keep its own key in `_masks` alive

    def visible(row: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (documents[row, query] == documents[row, key])

    rows, length = segments.shape
    compiled = segments.device.type == "cuda"
    return create_block_mask(visible, rows, None, length, length, segments.device, FLEX_BLOCK, _compile=compiled)


@functools.lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask = None) -> torch.Tensor:
    """Attention of q [B, T, H, D] over k and v [B, T, K, D], where K divides H: [B, T, H, D], causal.

    `mask` of `document_mask` keeps each query inside its document.
    """
    grouped = q.shape[2] != k.shape[2]
    if isinstance(mask, Spans):
        q_, k_, v_ = (x.flatten(0, 1) for x in (q, k, v))
        y = varlen_attn(q_, k_, v_, mask.bounds, mask.bounds, mask.longest, mask.longest,
                        window_size=(-1, 0), enable_gqa=grouped)  # fmt: skip
        assert isinstance(y, torch.Tensor)
        return y.view_as(q)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if isinstance(mask, BlockMask):
        inside = torch.compiler.is_compiling() or q.device.type != "cuda"
        flex = flex_attention if inside else _compiled_flex()
        return flex(q, k, v, block_mask=mask, enable_gqa=grouped).transpose(1, 2)
    if mask is not None:
        if grouped and q.device.type == "cuda":  # the kernels that take a mask want as many key heads as query heads
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
            grouped = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)
    with preferred(q):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)


def preferred(q: torch.Tensor) -> AbstractContextManager[Any]:
    """The order in which kernels are tried: cuDNN's first in training on Hopper, about FlashAttention-3's speed.

    Not in evaluation, whose shapes vary: cuDNN plans anew for each. Not where FlashAttention-3 is active. Only for the
    widths of head that it is known for: a kernel that is chosen and then finds no plan is an error, not passed over.
    """
    fits = q.device.type == "cuda" and q.dtype in HALF and q.shape[-1] in CUDNN_HEADS
    if fits and torch.is_grad_enabled() and _cudnn_first(q.device.index or 0):
        return first_cudnn()
    return contextlib.nullcontext()


def first_cudnn() -> AbstractContextManager[Any]:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


@functools.lru_cache(maxsize=8)
def _cudnn_first(device: int) -> bool:
    return torch.cuda.get_device_capability(device)[0] == 9 and current_flash_attention_impl() is None


def activate(kind: Kind) -> str:
    """Switch FlashAttention-3 on where its package and a Hopper GPU are at hand; the name of what will run.

    Called once in a process, before the first forward pass.
    """
    if not torch.cuda.is_available():
        return "SDPA (CPU)"
    hopper = torch.cuda.get_device_capability()[0] == 9
    if kind == "auto" and hopper and importlib.util.find_spec("flash_attn_interface"):
        activate_flash_attention_impl("FA3")
        _cudnn_first.cache_clear()
        return "SDPA (FlashAttention-3)"
    return "SDPA (cuDNN)" if hopper else "SDPA (FlashAttention-2)"
