"""Encoding to token ids beside the libraries that do the same, with GPT-2's tokenizer on the same texts; training.

Same texts, same run: documents of the near-duplicate gold set (manuals and web pages in many languages). The table
says whether the ids are the same, by their number and a checksum. The peers get a list of Python strings and give
what they give (lists, or arrays where that is their form); Tamis goes from an Arrow array to an Arrow array.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.common import ROOT, best, need, peer, table
from stages.kernels import bpe, ngrams, pretokens, words
from stages.token_encoding import compiled_of, encode, token_bytes
from stages.train_tokenizer import untrained

BYTES = 8_000_000
PEERS = ("tokenizers encode_batch", "tokenizers encode_batch_fast", "transformers AutoTokenizer",
         "tiktoken encode_ordinary_batch", "tokie encode_batch", "gigatoken encode_batch")  # fmt: skip
TRAIN = """
import re, sys, time, pyarrow.parquet as pq
from pathlib import Path
from stages.train_tokenizer import TrainTokenizer, train
text = pq.read_table(sys.argv[1], columns=["text"])["text"].combine_chunks()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
Path("/proc/self/clear_refs").write_text("5")
before, start = peak(), time.process_time()
tokenizer, _ = train((text.slice(at, 1000) for at in range(0, len(text), 1000)), TrainTokenizer(vocab_size=32768))
print(time.process_time() - start, peak() - before, tokenizer.get_vocab_size())
"""


def gpt2(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer, with the files in `folder` that the peers load."""
    tokenizer = untrained("gpt2", "runs")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's own: gigatoken knows no other
    files = (str(need("tokenizers", name)) for name in ("gpt2-vocab.json", "gpt2-merges.txt"))
    tokenizer.model = models.BPE.from_file(*files)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    ranks = {token_bytes(name).hex(): n for name, n in tokenizer.get_vocab().items() if name != "<|endoftext|>"}
    (folder / "ranks.json").write_text(json.dumps(ranks))
    return tokenizer


def _profile(tokenizer: Tokenizer, text: pa.Array) -> list[list]:
    """Seconds of the parts of one encoding, each alone."""
    made = compiled_of(tokenizer)
    offsets, data = words.buffers(text)
    offsets = offsets.astype(np.int64) - int(offsets[0])
    data = np.concatenate([data[: int(offsets[-1])], np.zeros(bpe.PAD, np.uint8)])
    kinds, memo = np.zeros(len(data), np.uint8), bpe.Memo()
    out, counts = np.empty(len(data) + len(text), np.uint16), np.zeros(len(text), np.int32)

    def run() -> None:
        bpe.encode(data, offsets, kinds, made.pattern, made.digits, made.byte_ids, made.pairs, -1, ngrams.SEED,
                   memo.table, memo.ids, memo.arena, memo.used, out, counts)  # fmt: skip

    def cold() -> None:
        memo.table[:] = 0
        memo.used[:] = 0
        run()

    classify = best(lambda: pretokens.classify(data, offsets, pretokens.classes(), kinds))
    whole = best(lambda: encode(tokenizer, text, pa.uint16(), None))
    return [
        ["classes of characters", classify],
        ["split, look up, merge: memo empty", best(cold)],
        ["the same, memo warm", best(run)],
        ["all, Arrow to Arrow, memo warm", whole],
    ]


def run() -> str:
    path = need("neardup", "docs.parquet")
    text = pq.read_table(path, columns=["text"])["text"].combine_chunks()
    lengths = np.cumsum([len(item.as_buffer()) for item in text])
    whole = float(lengths[-1]) / 1e6
    text = text.slice(0, int(np.searchsorted(lengths, BYTES)))
    size = float(lengths[len(text) - 1]) / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = gpt2(folder)
        (folder / "texts.json").write_text(json.dumps(text.to_pylist()), encoding="utf-8")
        ids = encode(tokenizer, text, pa.uint16(), None)[0].values.to_numpy().astype(np.int64)
        checksum = int((ids * (np.arange(len(ids)) % 1_000_003 + 1)).sum() % (1 << 61))
        profile = _profile(tokenizer, text)
        cpu = profile[-1][1]
        start = time.perf_counter()
        encode(tokenizer, text, pa.uint16(), None)
        header = ["library", "MB per CPU-second", "MB/s by the clock", "same ids", "CPU time, tamis = 1"]
        rows = [["tamis, one thread", size / cpu, size / (time.perf_counter() - start), "–", 1.0]]
        empty = profile[0][1] + profile[1][1]
        rows.append(["tamis, memo empty at the start", size / empty, "–", "–", empty / cpu])
        for library in PEERS:
            answer = peer("tokenizer_encode.py", {"library": library, "texts": str(folder / "texts.json"),
                                                  "folder": name, "repeat": 2})  # fmt: skip
            same = (answer["tokens"], answer["sum"]) == (len(ids), checksum)
            rows.append([f"{library} {answer['version']}", size / answer["cpu"], size / answer["wall"],
                         "yes" if same else "no", answer["cpu"] / cpu])  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
    seconds, memory, learned = map(float, done.stdout.split())
    parts = [[part, 1e9 * spent / (size * 1e6)] for part, spent in profile]
    return f"""## Tokenizer

Encoding {size:.0f} MB of text with GPT-2's tokenizer. The clock is that of a shared machine with two cores, which the
peers use both. As for the peers, the texts were encoded before, so the memo of pre-tokens is full but in the second
row.

{table(header, rows)}

What bounds it, in nanoseconds a byte of text: with an empty memo the difference between the second and the third row,
which is merging each pre-token that is new and keeping it; with a full one the splits and the look-ups.

{table(["part", "ns/byte"], parts)}

Training on {whole:.0f} MB (32,768 ids, the library `tokenizers`): {whole / seconds:.1f} MB per CPU-second,
{memory:.0f} MB of memory on top, {learned:,.0f} ids."""


if __name__ == "__main__":
    print(run())
