"""Ids of texts, in Arrow: loading a trained tokenizer, its compiled form, cutting long texts for the library.

Byte-level BPE with a split that is known by name is encoded by `kernels.bpe`, on the calling thread and without the
GIL: 50 to 110 MB per CPU-second, and 25 MB of memory for each thread. Any other tokenizer goes through the `tokenizers`
library, on all its threads, at 2 to 4 MB per CPU-second. The ids are the same; only where a text has more than PIECE
characters without a line break of its own does the library get it in pieces, and may merge otherwise at the cuts.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from stages.kernels import bpe, ngrams, pretokens, words

# The two published splits, with the part for numbers left open. `gpt2` with `runs` is GPT-2's own (Radford et al.
# 2019, encoder.py); `llama3` with `three` is Llama 3's (Meta 2024, tokenizer.py), which is tiktoken's cl100k_base.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
NUMBERS = {"runs": r" ?\p{N}+", "three": r"\p{N}{1,3}", "single": r"\p{N}"}

PIECE = 1 << 18  # characters; Oniguruma gives up (and panics) on a run of 10 million spaces
GROUP = 1 << 20  # characters encoded at a time: an encoding takes some 100 bytes of memory for each of them
LINE_BREAK = re.compile(r"(?<=\S)\n(?=\S)")


def split_pattern(pattern: str, digits: str) -> str:
    """The regular expression (Oniguruma) whose matches are the pre-tokens; they cover the text without a gap."""
    return PATTERNS[pattern].replace("NUMBER", NUMBERS[digits])


SPLITS = {
    split_pattern(pattern, digits): (number, run)
    for pattern, number in (("gpt2", pretokens.GPT2), ("llama3", pretokens.LLAMA3))
    for digits, run in (("runs", pretokens.RUNS), ("single", pretokens.SINGLE), ("three", pretokens.THREE))
}


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
    """Ids of each text as list<dtype>, and their number (int32[n]). `text` (string[n]) must hold no null.

    A page that spells a special token gets plain text ids where `tokenizer.encode_special_tokens` is set.
    """
    kind = dtype.to_pandas_dtype()
    compiled = compiled_of(tokenizer)
    if compiled is not None:
        values, counts = compiled.encode(text, kind, eos_id)
    else:
        values, counts = _by_library(tokenizer, text, kind, eos_id)
    offsets = np.zeros(len(text) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, dtype)), counts


def _by_library(tokenizer: Tokenizer, text: pa.Array, kind: Any, eos_id: int | None) -> tuple[np.ndarray, np.ndarray]:
    parts: list[np.ndarray] = [np.zeros(0, kind)]
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
    values = np.concatenate(parts)
    if eos_id is None:
        return values, counts
    return np.insert(values, np.cumsum(counts), eos_id), counts + 1


class Compiled:
    """A byte-level BPE tokenizer in the arrays that `stages.kernels.bpe` reads. Safe to use from several threads."""

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pattern: int, digits: int) -> None:
        by_bytes = {character: vocab[character] for character in alphabet()}
        self.byte_ids = np.zeros(256, np.uint32)
        for character, number in by_bytes.items():
            self.byte_ids[alphabet()[character]] = number
        left, right = (np.array([vocab[merge[side]] for merge in merges], np.uint32) for side in (0, 1))
        merged = np.array([vocab[first + second] for first, second in merges], np.uint32)
        self.pairs = bpe.pair_table(left, right, merged)
        self.pattern, self.digits = pattern, digits
        self._memos: list[bpe.Memo] = []

    def encode(self, text: pa.Array, kind: Any, eos_id: int | None) -> tuple[np.ndarray, np.ndarray]:
        """All ids in one array of the numpy type `kind`, and the number of each text (int32[n])."""
        offsets, data = words.buffers(text)
        start, end = int(offsets[0]), int(offsets[-1])
        padded = np.zeros(end - start + bpe.PAD, np.uint8)
        padded[: end - start] = data[start:end]
        offsets = offsets.astype(np.int64) - start
        kinds = np.zeros(len(padded), np.uint8)
        pretokens.classify(padded, offsets, pretokens.classes(), kinds)
        out = np.empty(end - start + len(text), kind)
        counts = np.zeros(len(text), np.int32)
        memo = self._memos.pop() if self._memos else bpe.Memo()
        total = bpe.encode(padded, offsets, kinds, self.pattern, self.digits, self.byte_ids, self.pairs,
                           -1 if eos_id is None else eos_id, ngrams.SEED, memo.table, memo.ids, memo.arena, memo.used,
                           out, counts)  # fmt: skip
        self._memos.append(memo)
        return out[:total], counts


@lru_cache(maxsize=8)
def compiled_of(tokenizer: Tokenizer) -> Compiled | None:
    """The compiled form of a tokenizer, None where its parts are others than those of byte-level BPE with a split that
    is known by name. The tokenizer must not change afterwards."""
    parts = json.loads(tokenizer.to_str())
    model, split = parts["model"], _split_of(parts["pre_tokenizer"])
    plain = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": False}  # fmt: skip
    known = all((model.get(name) or None) == (value or None) for name, value in plain.items())
    forged = parts["added_tokens"] and not tokenizer.encode_special_tokens
    special = all(token["special"] for token in parts["added_tokens"])
    if not known or forged or not special or parts["normalizer"] is not None or split is None:
        return None
    if any(character not in model["vocab"] for character in alphabet()):
        return None
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    return Compiled(model["vocab"], merges, *split)


def _split_of(part: dict[str, Any] | None) -> tuple[int, int] | None:
    """Pattern and digits as `stages.kernels.pretokens` numbers them, of the pre-tokenizer of a `tokenizer.json`."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    if part is None:
        return None
    if part["type"] == "ByteLevel":
        alone = byte_level.items() <= part.items() and part["use_regex"]
        return (pretokens.GPT2, pretokens.RUNS) if alone else None
    steps = part.get("pretokenizers") or []
    if part["type"] != "Sequence" or len(steps) != 2 or steps[0]["type"] != "Split":
        return None
    split, level = steps
    if split["behavior"] != "Isolated" or split["invert"] or not byte_level.items() <= level.items():
        return None
    return None if level["use_regex"] else SPLITS.get(split["pattern"].get("Regex"))


@cache
def alphabet() -> dict[str, int]:
    """The character that stands for each byte in a `tokenizer.json` (Radford et al. 2019, encoder.py), reversed."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for. Raises KeyError for a token of another kind."""
    return bytes(alphabet()[character] for character in token)
