"""A run directory with a toy language, and the trainer started on it in a subprocess."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 64}
TRAIN = {"model": SHAPE, "seq_len": 32, "global_batch": 8, "micro_batch": 2, "steps": 6, "lr": 0.01, "warmup": 2,
         "probe_every": 3, "probe_limit": 8, "probe_share": 1.0, "val_limit": 5, "threads": 1}  # fmt: skip
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "log", "and", "then", "slept"]


def make_run(run: Path, documents: int = 60) -> Path:
    """A run directory as the pipeline leaves it: a toy language whose next word is a function of the last one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rng = np.random.default_rng(0)
    follow = {word: [WORDS[(3 * i + 1) % 12], WORDS[(5 * i + 2) % 12]] for i, word in enumerate(WORDS)}
    texts = []
    for _ in range(documents):
        words = [str(rng.choice(WORDS))]
        for _ in range(int(rng.integers(20, 90))):
            words.append(follow[words[-1]][int(rng.random() < 0.1)])
        texts.append(" ".join(words))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    for name in ("tokens", "tokenizer", "probes"):
        (run / name).mkdir(parents=True)
    tokenizer.save(str(run / "tokenizer" / "tokenizer.json"))
    shards, totals = [], {}
    for split, parts in {"train": [texts[:25], texts[25:50]], "validation": [texts[50:]]}.items():
        total = {"rows": 0, "tokens": 0, "text_bytes": 0}
        for number, part in enumerate(parts):
            ids = [[*encoding.ids, 0] for encoding in tokenizer.encode_batch(part)]
            sizes = [len(text.encode()) for text in part]
            table = pa.table({
                "doc_id": [hashlib.md5(text.encode()).hexdigest() for text in part],
                "input_ids": pa.array(ids, pa.list_(pa.uint16())),
                "n": pa.array([len(row) for row in ids], pa.int32()),
                "n_bytes": pa.array(sizes, pa.int32()),
            })  # fmt: skip
            path = run / "tokens" / f"{split}-{number}.parquet"
            pq.write_table(table, path)
            sums = {"rows": len(part), "tokens": sum(map(len, ids)), "text_bytes": sum(sizes)}
            total = {key: total[key] + sums[key] for key in total}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            shards.append({"path": path.name, "split": split, "source": "toy", "bytes": path.stat().st_size,
                           "sha256": digest, **sums})  # fmt: skip
        totals[split] = total
    index = {"format": "tamis-tokens/1", "dtype": "uint16", "shards": shards, "totals": totals,
             "sources": {"toy": totals},
             "tokenizer": {"fingerprint": "0", "vocab_size": tokenizer.get_vocab_size(), "eos_id": 0,
                           "eos_token": "<|endoftext|>"}}  # fmt: skip
    (run / "tokens" / "index.json").write_text(json.dumps(index))
    rows = [{"task": "toy", "id": str(i), "context": f"{word} ", "choices": [follow[word][0], "zebra crossing"],
             "gold": 0} for i, word in enumerate(WORDS)]  # fmt: skip
    (run / "probes" / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def launch(run: Path, **changes) -> subprocess.CompletedProcess:
    config = run / "config.json"
    config.write_text(json.dumps(TRAIN | changes))
    command = [sys.executable, "-m", "trainer.launch", "--run", str(run), "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)


def succeed(run: Path, **changes) -> list[dict]:
    """Events of a successful training."""
    done = launch(run, **changes)
    assert done.returncode == 0, done.stderr + (run / "train.log").read_text()[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def begun(events: list[dict]) -> int:
    """The step that a training went on from."""
    return next(event["step"] for event in events if event["event"] == "start")


def rows_of(run: Path, name: str = "train.jsonl") -> list[dict]:
    """Rows of a log; of train.jsonl those of the steps, without the untrained model's validation."""
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [row for row in rows if row["step"]] if name == "train.jsonl" else rows
