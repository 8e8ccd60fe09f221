"""A token folder with given documents, as the pipeline leaves it, and the slow obvious reading of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config import TrainConfig
from trainer.shape import ModelConfig

EOS, VOCAB = 0, 60_000
SHAPE = ModelConfig(hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, intermediate_size=64)
Documents = dict[str, list[list[int]]]  # source -> ids of each document


def config(**changes) -> TrainConfig:
    return TrainConfig.model_validate(
        {"model": SHAPE, "seq_len": 8, "global_batch": 4, "micro_batch": 1, "steps": 50, **changes}
    )


def name_of(source: str, number: int) -> str:
    return hashlib.md5(f"{source}{number}".encode()).hexdigest()


def make_tokens(folder: Path, splits: dict[str, Documents], shards: int = 2, vocab: int = VOCAB) -> Path:
    """Write the documents of each split and source in `shards` files; returns the folder."""
    folder.mkdir(parents=True)
    listed, totals, sources = [], {}, {}
    for split, documents in splits.items():
        for source, rows in documents.items():
            step = max(1, -(-len(rows) // shards))
            for number, first in enumerate(range(0, len(rows), step)):
                part = rows[first : first + step]
                table = pa.table({
                    "doc_id": [name_of(source, first + i) for i in range(len(part))],
                    "input_ids": pa.array(part, pa.list_(pa.uint16())),
                    "n": pa.array([len(row) for row in part], pa.int32()),
                    "n_bytes": pa.array([4 * len(row) for row in part], pa.int32()),
                })  # fmt: skip
                path = folder / f"{split}-{source}-{number:05d}.parquet"
                pq.write_table(table, path, row_group_size=3)
                sums = {"rows": len(part), "tokens": sum(map(len, part)), "text_bytes": 4 * sum(map(len, part))}
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                listed.append({"path": path.name, "split": split, "source": source, "bytes": path.stat().st_size,
                               "sha256": sha256, **sums})  # fmt: skip
                for total in (totals, sources.setdefault(source, {})):
                    known = total.setdefault(split, dict.fromkeys(sums, 0))
                    total[split] = {key: known[key] + sums[key] for key in sums}
    index = {"format": "tamis-tokens/1", "dtype": "uint16", "shards": listed, "totals": totals, "sources": sources,
             "tokenizer": {"fingerprint": "f" * 64,
                           "vocab_size": vocab, "eos_id": EOS, "eos_token": "<eos>"}}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def distinct(lengths: dict[str, list[int]]) -> Documents:
    """Documents of the given lengths whose ids are all different, so that each token can be told apart; the last of
    each is EOS."""
    found, token = {}, 1
    for source, counts in sorted(lengths.items()):
        found[source] = []
        for count in counts:
            row = list(range(token, token + max(0, count - 1)))
            token += len(row)
            found[source].append([*row, EOS] if count else [])
    return found
