"""Reading batches: speed beside other loaders, waiting, padding: `python -m benchmarks.bench_reader`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import best, cpu_seconds, peer, table
from trainer.best_fit import pack
from trainer.config import TrainConfig
from trainer.reader import Reader
from trainer.tokens import TokenIndex, open_tokens

TOKENS, SHARDS, SEQ_LEN, ROWS = 40_000_000, 4, 1024, 32
SHAPE = {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "intermediate_size": 704}


def make(folder: Path) -> TokenIndex:
    """Shards of TOKENS tokens: log-normal document lengths (median 330, as web pages have), Zipf's ids."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    listed = []
    for number in range(SHARDS):
        lengths = np.maximum(2, rng.lognormal(5.8, 1.1, TOKENS)[: TOKENS // SHARDS // 500]).astype(np.int32)
        ids = np.minimum(rng.zipf(1.2, int(lengths.sum())), 50_000).astype(np.uint16) - 1
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rows = pa.table({"doc_id": [f"{number:08x}{i:024x}" for i in range(len(lengths))],
                         "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)), "n": lengths,
                         "n_bytes": lengths * 4})  # fmt: skip
        path = folder / f"train-web-{number:05d}.parquet"
        pq.write_table(rows, path, compression="zstd", use_dictionary=False, row_group_size=2000)
        listed.append({"path": path.name, "source": "web", "split": "train", "rows": len(lengths),
                       "tokens": len(ids), "text_bytes": 4 * len(ids), "bytes": path.stat().st_size,
                       "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})  # fmt: skip
    total = {key: sum(shard[key] for shard in listed) for key in ("rows", "tokens", "text_bytes")}
    index = {"format": "tamis-tokens/1", "dtype": "uint16", "shards": listed, "totals": {"train": total},
             "sources": {"web": {"train": total}},
             "tokenizer": {"fingerprint": "0", "vocab_size": 50_304, "eos_id": 0, "eos_token": "<eos>"}}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return TokenIndex.read(folder)


def config(**changes) -> TrainConfig:
    return TrainConfig.model_validate({"model": SHAPE, "seq_len": SEQ_LEN, "global_batch": ROWS, "micro_batch": ROWS,
                                       "steps": 100_000, **changes})  # fmt: skip


def speed(index: TokenIndex, cache: Path, **changes) -> float:
    """Tokens for each CPU second, every step made here and now."""
    reader = Reader(index, config(**changes), cache, 0, 1)

    def steps() -> None:
        for step in range(1, 301):
            reader._make(step)

    found = 300 * ROWS * SEQ_LEN / best(steps)
    reader.close()
    return found


def waiting(index: TokenIndex, cache: Path) -> tuple[float, float]:
    """Share of the time waited for data while a tiny model trains on this CPU: (share, seconds of a step)."""
    torch.set_num_threads(1)
    layer = torch.nn.Sequential(torch.nn.Embedding(50_304, 64), torch.nn.Linear(64, 512), torch.nn.Linear(512, 64))
    reader = Reader(index, config(packing="best_fit", document_mask=True), cache, 0, 1)
    reader.step(1)
    before, start = reader.wait_s, time.perf_counter()
    for step in range(2, 42):
        for batch in reader.step(step):
            layer(torch.from_numpy(batch.ids)).square().mean().backward()
    share, seconds = (reader.wait_s - before) / (time.perf_counter() - start), (time.perf_counter() - start) / 40
    reader.close()
    return share, seconds


def run() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index, cache = make(folder / "tokens"), folder / ".cache"
        total, rows_total = index.totals["train"]["tokens"], index.totals["train"]["rows"]
        start = cpu_seconds()
        open_tokens(index, "train", cache)
        once = cpu_seconds() - start
        starts = np.fromfile(next(cache.glob("documents-*.bin")), np.int64)
        pack_s = best(lambda: pack(starts, SEQ_LEN))
        ours = {
            "tamis, chunk": speed(index, cache),
            "tamis, chunk, document masks": speed(index, cache, document_mask=True),
            "tamis, best fit": speed(index, cache, packing="best_fit"),
            "tamis, best fit, document masks": speed(index, cache, packing="best_fit", document_mask=True),
        }
        flat = next(cache.glob("tokens-*.bin"))
        shards = [str(index.folder / shard.path) for shard in index.shards]
        theirs = peer("reader_peers.py", {"flat": str(flat), "shards": shards, "seq_len": SEQ_LEN, "rows": ROWS,
                                          "seconds": 2.0})  # fmt: skip
        facts = {seq_len: packed_facts(index, cache, seq_len) for seq_len in (1024, 2048, 8192)}
        share, seconds = waiting(index, cache)
        blank = best(lambda: [np.full((2, ROWS, SEQ_LEN), 7, np.int64) for _ in range(300)])
        filled = 300 * ROWS * SEQ_LEN * 16 / blank
    base = ours["tamis, chunk"]
    rows = [[key, value / 1e6, value / base] for key, value in ours.items()]
    rows += [[key, value / 1e6, value / base] if isinstance(value, float) else [key, value, ""]
             for key, value in theirs.items()]  # fmt: skip
    padding = "; ".join(f"T={seq_len:,}: {found['padding']:.3%} padding, {found['cut']:,} documents cut"
                        for seq_len, found in facts.items())  # fmt: skip
    return (
        "## Reading batches\n\n"
        f"Shuffled int64 inputs and targets, {ROWS} x {SEQ_LEN}, from {total / 1e6:.0f} million tokens in {SHARDS} "
        "shards; million tokens for each CPU second of one core.\n\n"
        + table(["loader", "M tokens/s", "of tamis, chunk"], rows)
        + f"\n\nBefore the first step, once: verifying the shards and laying them flat {total / once / 1e6:.0f} M "
        f"tokens/s and core; best-fit packing {rows_total / pack_s / 1e6:.1f} M documents/s. Best fit: {padding}.\n\n"
        f"Waiting: {share:.2%} of the time of steps that take {seconds * 1e3:.0f} ms on one thread of this machine.\n\n"
        f"`chunk` writes 16 bytes a token, {base * 16 / 1e9:.1f} GB/s; NumPy fills memory of the same size at "
        f"{filled / 1e9:.1f} GB/s. The rest is widening the ids; the token file is in the page cache.\n"
    )


def packed_facts(index: TokenIndex, cache: Path, seq_len: int) -> dict[str, float]:
    reader = Reader(index, config(packing="best_fit", seq_len=seq_len), cache, 0, 1)
    reader.close()
    return reader.facts()


if __name__ == "__main__":
    print(run())
