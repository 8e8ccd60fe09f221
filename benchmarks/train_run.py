"""A run directory of random tokens: what a training needs, at any size of vocabulary, without a pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PROBE_ITEMS = 100


def make_run(run: Path, vocab: int, seq_len: int, sequences: int = 1024) -> Path:
    """Two shards for training and one for validation of `vocab` ids, a byte-level tokenizer, one probe task."""
    for name in ("tokens", "tokenizer", "probes"):
        (run / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    shards, totals = [], {}
    for split, files in {"train": 2, "validation": 1}.items():
        total = {"rows": 0, "tokens": 0, "text_bytes": 0}
        for number in range(files):
            rows = sequences // (2 if split == "train" else 8)
            ids = random.integers(1, vocab, (rows, seq_len)).astype(np.uint16)
            ids[:, -1] = 0
            offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * seq_len)
            table = pa.table({
                "doc_id": [hashlib.md5(f"{split}{number}{row}".encode()).hexdigest() for row in range(rows)],
                "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.ravel())),
                "n": pa.array(np.full(rows, seq_len, np.int32)),
                "n_bytes": pa.array(np.full(rows, 4 * seq_len, np.int32)),
            })  # fmt: skip
            path = run / "tokens" / f"{split}-{number}.parquet"
            pq.write_table(table, path)
            sums = {"rows": rows, "tokens": rows * seq_len, "text_bytes": 4 * rows * seq_len}
            total = {key: total[key] + sums[key] for key in total}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            shards.append({"path": path.name, "split": split, "source": "random", "bytes": path.stat().st_size,
                           "sha256": digest, **sums})  # fmt: skip
        totals[split] = total
    index = {
        "format": "tamis-tokens/1",
        "dtype": "uint16",
        "shards": shards,
        "totals": totals,
        "sources": {"random": totals},
        "tokenizer": {"fingerprint": "0", "vocab_size": vocab, "eos_id": 0, "eos_token": "<|endoftext|>"},
    }
    (run / "tokens" / "index.json").write_text(json.dumps(index))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(run / "tokenizer" / "tokenizer.json"))
    items = [
        {
            "task": "random",
            "id": str(n),
            "context": f"Item {n}:",
            "choices": ["one answer", "another", "a third"],
            "gold": 0,
        }
        for n in range(PROBE_ITEMS)
    ]
    (run / "probes" / "random.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return run
