"""Safetensors files written one tensor at a time, so that a checkpoint never needs its own size in memory.

The header of the format (https://github.com/huggingface/safetensors, "Format") holds the place of every tensor,
and the shapes are known before the first one is read, so the header goes first and the data follows in order.
The cost: names, shapes and order must be stated beforehand; anything else is an error, never a crooked file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

WIDTH = 4  # bytes of fp32


class TensorWriter:
    """A file of fp32 tensors; `write` them in the order of `shapes`. Synced to the disk on leaving the context."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self._left = path, list(shapes.items())[::-1]
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for name, shape in shapes.items():
            end = start + WIDTH * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        expected, shape = self._left.pop() if self._left else ("nothing", ())
        if name != expected or tuple(tensor.shape) != shape:
            raise ValueError(f"{self.path}: expected {expected} {shape}, found {name} {tuple(tensor.shape)}")
        self._file.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._left:
                raise ValueError(f"{self.path}: {len(self._left)} tensors were not written, next {self._left[-1][0]}")
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
