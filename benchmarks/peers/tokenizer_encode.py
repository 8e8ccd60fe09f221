"""Encoding speed of a library with GPT-2's tokenizer: `{"library", "texts", "folder", "repeat"}` as JSON.

Answers `{"cpu", "wall", "tokens", "sum", "version"}`: the best seconds of `repeat` calls, the number of ids, and a
checksum of ids and their places, so that equal answers mean equal ids. Lists of ids are what the libraries give; those
that give arrays are taken at their word.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

job = json.load(sys.stdin)
texts = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
folder = Path(job["folder"])
# the pattern is that of tiktoken_ext/openai_public.py
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def flat(rows):
    return np.concatenate([np.asarray(row, np.int64) for row in rows])


def tokenizers_batch(fast):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    call = tokenizer.encode_batch_fast if fast else tokenizer.encode_batch
    return lambda: [found.ids for found in call(texts, add_special_tokens=False)], flat


def transformers_batch():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return lambda: tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"], flat


def tiktoken_batch():
    import tiktoken

    ranks = {bytes.fromhex(name): number for name, number in json.loads((folder / "ranks.json").read_text()).items()}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    return lambda: encoding.encode_ordinary_batch(texts, num_threads=2), flat


def gigatoken_batch():
    import awkward as ak
    import gigatoken

    tokenizer = gigatoken.Tokenizer(str(folder / "tokenizer.json"))
    return lambda: tokenizer.encode_batch(texts), lambda rows: np.asarray(ak.flatten(rows), np.int64)


def tokie_batch():
    import tokie

    tokenizer = tokie.Tokenizer.from_json(str(folder / "tokenizer.json"))
    return lambda: [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)], flat


CALLS = {
    "tokenizers encode_batch": ("tokenizers", lambda: tokenizers_batch(False)),
    "tokenizers encode_batch_fast": ("tokenizers", lambda: tokenizers_batch(True)),
    "transformers AutoTokenizer": ("transformers", transformers_batch),
    "tiktoken encode_ordinary_batch": ("tiktoken", tiktoken_batch),
    "tokie encode_batch": ("tokie", tokie_batch),
    "gigatoken encode_batch": ("gigatoken", gigatoken_batch),
}
package, make = CALLS[job["library"]]
call, ids_of = make()
found = call()
cpu, wall = [], []
for _ in range(job["repeat"]):
    start, clock = time.process_time(), time.perf_counter()
    call()
    cpu.append(time.process_time() - start)
    wall.append(time.perf_counter() - clock)
ids = ids_of(found)
checksum = int((ids * (np.arange(len(ids)) % 1_000_003 + 1)).sum() % (1 << 61))
print(
    json.dumps({"cpu": min(cpu), "wall": min(wall), "tokens": len(ids), "sum": checksum, "version": version(package)})
)
