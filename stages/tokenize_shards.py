"""Text to token ids: one row of ids for each document, split into train and validation by a hash of its id.

A document is encoded whole and ends with the end-of-text id, so packing and document masks stay the trainer's
choice. Ids are uint16 while the vocabulary fits, else uint32. The rows of each source and split are cut into shards
of about `shard_tokens`, with row groups of a million tokens to stream. Cost: that of `token_encoding`; the shards
take 1.3 to 1.5 bytes a token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Batch, Params, Shards, Tools, sink_stage, unit_hash
from stages.token_encoding import encode, id_type, load

ROW_GROUP = 1 << 20  # tokens: some 4 MB to decode at a time


class Tokenize(Params):
    tokenizer: str = Field("train_tokenizer", description="artifact node with the tokenizer")
    validation_fraction: float = Field(0.01, ge=0, lt=1, description="of documents, by hash, in split `validation`")
    append_eos: bool = Field(True, description="end each document with the end-of-text id")
    shard_tokens: int = Field(100_000_000, ge=1_000, description="tokens of a shard, about")


def index(shards: list[dict[str, Any]], params: Tokenize, tools: Tools) -> dict[str, Any]:
    """`tokens/index.json`: the training manifest. Shards without rows are left out."""
    _, info = load(tools.artifact(params.tokenizer))
    listed = [
        {
            "path": shard["path"],
            "source": shard["source"],
            "split": shard["split"],
            "rows": shard["rows"],
            "tokens": shard["sums"]["n"],
            "text_bytes": shard["sums"]["n_bytes"],
            "bytes": shard["bytes"],
            "sha256": shard["sha256"],
        }
        for shard in sorted(shards, key=lambda shard: (shard["split"], shard["source"], shard["path"]))
        if shard["rows"]
    ]
    totals: dict[str, dict[str, int]] = {}
    sources: dict[str, dict[str, dict[str, int]]] = {}
    for shard in listed:
        for sums in (totals, sources.setdefault(shard["source"], {})):
            total = sums.setdefault(shard["split"], {"rows": 0, "tokens": 0, "text_bytes": 0})
            for key in total:
                total[key] += shard[key]
    return {
        "format": "tamis-tokens/1",
        "dtype": str(id_type(info["vocab_size"])),
        "tokenizer": {key: info[key] for key in ("fingerprint", "vocab_size", "eos_id", "eos_token")},
        "shards": listed,
        "totals": totals,
        "sources": sources,
    }


@sink_stage("tokenize", Tokenize, reads=("doc_id", "text"), artifacts=lambda p: (p.tokenizer,), publish="tokens",
            index=index, shards=lambda p: Shards("n", p.shard_tokens, ROW_GROUP))  # fmt: skip
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
