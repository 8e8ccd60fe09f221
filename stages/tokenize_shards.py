"""Text to token ids: one row of ids for each document, split into train and validation by a hash of its id.

A document is encoded whole and ends with the end-of-text id, so packing and document masks stay the trainer's
choice. Ids are uint16 while the vocabulary fits, else uint32. A page that spells a special token gets plain text
ids: no document can forge a boundary. Cost: the `tokenizers` library's own batch encoding, on all its threads, about
1 to 2 MB/s of text per core; the copy to Arrow adds a few per cent.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from tokenizers import Tokenizer

from pipeline.stage import Batch, Params, Tools, sink_stage, unit_hash

PIECE = 1 << 18  # characters; Oniguruma gives up (and panics) on a run of 10 million spaces
GROUP = 1 << 20  # characters encoded at a time: an encoding takes some 100 bytes of memory for each of them
LINE_BREAK = re.compile(r"(?<=\S)\n(?=\S)")


class Tokenize(Params):
    tokenizer: str = Field("train_tokenizer", description="artifact node with the tokenizer")
    validation_fraction: float = Field(0.01, ge=0, lt=1, description="of documents, by hash, in split `validation`")
    append_eos: bool = Field(True, description="end each document with the end-of-text id")


@lru_cache(maxsize=4)
def load(folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer and its `artifact.json`. Raises ValueError when the file is not the one that was trained."""
    data = (folder / "tokenizer.json").read_bytes()
    info = json.loads((folder / "artifact.json").read_text())
    found = hashlib.sha256(data).hexdigest()
    if found != info["fingerprint"]:
        raise ValueError(
            f"{folder}/tokenizer.json: expected SHA-256 {info['fingerprint']} as artifact.json says, found {found}: "
            "remove the folder and run again"
        )
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, info


def id_type(vocab_size: int) -> pa.DataType:
    return pa.uint16() if vocab_size <= 1 << 16 else pa.uint32()


def pieces(text: str) -> list[str]:
    """The text in pieces of at most PIECE characters, so that a hostile document costs bounded time and memory.

    A cut lies where a line break stands alone between two visible characters: each split pattern ends a pre-token
    there, so the ids are those of the whole text. Where half a piece has no such line break the cut falls where it
    must; decoding is exact all the same.
    """
    cut = [0]
    while len(text) - cut[-1] > PIECE:
        start, end = cut[-1] + PIECE // 2, cut[-1] + PIECE
        last = max((match.end() for match in LINE_BREAK.finditer(text, start, end)), default=end)
        cut.append(last)
    return [text[a:b] for a, b in pairwise([*cut, len(text)])]


def encode(tokenizer: Tokenizer, text: pa.Array, dtype: pa.DataType, eos_id: int | None) -> tuple[pa.Array, np.ndarray]:
    """Ids of each text as list<dtype>, and their number (int32[n]). `text` (string[n]) must hold no null."""
    kind = dtype.to_pandas_dtype()
    tail = np.array([] if eos_id is None else [eos_id], kind)
    parts: list[np.ndarray] = []
    counts = np.zeros(len(text), np.int32)
    waiting: list[str] = []
    owner: list[int] = []

    def flush() -> None:
        for row, encoding in zip(owner, tokenizer.encode_batch_fast(waiting, add_special_tokens=False), strict=True):
            parts.append(np.array(encoding.ids, kind))
            counts[row] += len(parts[-1])
        waiting.clear()
        owner.clear()

    size = 0
    for row, string in enumerate(text.to_pylist()):
        for piece in pieces(string):
            waiting.append(piece)
            owner.append(row)
            size += len(piece)
            if size >= GROUP:
                flush()
                size = 0
    flush()
    values, counts = _close(parts, counts, tail)
    offsets = np.zeros(len(text) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, dtype)), counts


def _close(parts: list[np.ndarray], counts: np.ndarray, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one array, with `tail` after each document."""
    flat = np.concatenate([*parts, tail[:0]])
    if not len(tail):
        return flat, counts
    return np.insert(flat, np.cumsum(counts), tail[0]), counts + 1


def index(shards: list[dict[str, Any]], params: Tokenize, tools: Tools) -> dict[str, Any]:
    """`tokens/index.json`: the training manifest. Shards without rows are left out."""
    _, info = load(tools.artifact(params.tokenizer))
    listed = [
        {
            "path": shard["path"],
            "split": shard["split"],
            "rows": shard["rows"],
            "tokens": shard["sums"]["n"],
            "text_bytes": shard["sums"]["n_bytes"],
            "bytes": shard["bytes"],
            "sha256": shard["sha256"],
        }
        for shard in sorted(shards, key=lambda shard: (shard["split"], shard["path"]))
        if shard["rows"]
    ]
    totals: dict[str, dict[str, int]] = {}
    for shard in listed:
        total = totals.setdefault(shard["split"], {"rows": 0, "tokens": 0, "text_bytes": 0})
        for key in total:
            total[key] += shard[key]
    return {
        "format": "tamis-tokens/1",
        "dtype": str(id_type(info["vocab_size"])),
        "tokenizer": {key: info[key] for key in ("fingerprint", "vocab_size", "eos_id", "eos_token")},
        "shards": listed,
        "totals": totals,
    }


@sink_stage("tokenize", Tokenize, reads=("doc_id", "text"), artifacts=lambda p: (p.tokenizer,), publish="tokens",
            index=index)  # fmt: skip
def tokenize(batch: Batch, params: Tokenize, tools: Tools) -> dict[str, pa.RecordBatch]:
    """Encode a batch; gives `train` and `validation` with columns doc_id string, input_ids list<uint16 or uint32>,
    n int32 (ids, end of text included) and n_bytes int32 (UTF-8 bytes of the text). Raises ValueError on a null."""
    text = batch["text"]
    if text.null_count:
        row = int(np.flatnonzero(np.asarray(text.is_null()))[0])
        raise ValueError(f"{tools.node}: expected text in every live document, found none in {batch['doc_id'][row]}")
    tokenizer, info = load(tools.artifact(params.tokenizer))
    ids, counts = encode(tokenizer, text, id_type(info["vocab_size"]), info["eos_id"] if params.append_eos else None)
    rows = pa.record_batch(
        {
            "doc_id": batch["doc_id"],
            "input_ids": ids,
            "n": pa.array(counts, pa.int32()),
            "n_bytes": pc.binary_length(text).cast(pa.int32()),
        }
    )
    held_out = unit_hash(batch["doc_id"], tools.seed, "validation") < params.validation_fraction
    return {
        "train": rows.filter(pa.array(~held_out)),
        "validation": rows.filter(pa.array(held_out)),
    }
