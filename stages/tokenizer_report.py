"""What a tokenizer does to text that it was not trained on, and which of its tokens earn their row in the model.

Bytes per token (UTF-8 bytes of the text over its ids, no end of text counted) in all and by group, beside other
tokenizers on the same documents. Higher is better, and comparable only at about the same vocabulary: a larger one
always compresses more and costs more parameters.

A learned token (not special, not one of the 256 bytes) is `unused` when the encoded training sample never has it: it
is a step on the way to longer tokens. It is `rare` when it occurs there less than a hundredth as often as it would if
all ids were equally frequent. Models learn little about either (Land and Bartolo 2024, "Fishing for Magikarp").
`unseen` is the share of all ids that the held-out text never has: it depends on how much text that is.

Cost: one encoding of the sample and one of the held-out text for each tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from stages.token_encoding import token_bytes

RARE = 0.01  # of the count that all ids would have if they were equally frequent
GROUPS, LONGEST, EXAMPLES, EXAMPLE_CHARS = 20, 12, 3, 160

Encode = Callable[[pa.Array], tuple[np.ndarray, np.ndarray]]  # texts -> (ids, number of ids of each text)


def held_out(encoders: dict[str, tuple[int, Encode] | str], texts: Iterable[pa.Array],
             groups: dict[str, pa.DictionaryArray]) -> dict[str, Any]:  # fmt: skip
    """Numbers of each encoder on the texts; `groups` gives the value of each document for each column.

    `encoders` maps a name to the size of its vocabulary and its function, or to the reason why it is left out. The
    first is the tokenizer that the report is about.
    """
    counts: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    seen = {name: np.zeros(found[0], bool) for name, found in encoders.items() if not isinstance(found, str)}
    sizes: list[np.ndarray] = [np.zeros(0, np.int64)]
    for text in texts:
        sizes.append(np.asarray(pc.binary_length(text)).astype(np.int64))
        for name in seen:
            ids, found = encoders[name][1](text)  # type: ignore[operator]
            counts[name].append(found)
            seen[name][ids] = True
    size = np.concatenate(sizes)
    tokens = {name: np.concatenate([*counts[name], np.zeros(0, np.int32)]).astype(np.int64) for name in seen}
    whole = np.ones(len(size), bool)
    rows: list[dict[str, Any]] = []
    for name, found in encoders.items():
        if isinstance(found, str):
            rows.append({"name": name, "note": found})
            continue
        unseen = round(1 - float(seen[name].mean()), 4) if len(size) else None
        rows.append({"name": name, "vocab_size": found[0], "tokens": int(tokens[name].sum()), "unseen": unseen,
                     "bytes_per_token": _rate(size, tokens[name], whole)})  # fmt: skip
    return {
        "documents": len(size),
        "bytes": int(size.sum()),
        "tokens": rows[0]["tokens"],
        "bytes_per_token": rows[0]["bytes_per_token"],
        "tokenizers": rows,
        "groups": {column: _groups(values, size, tokens) for column, values in groups.items()},
    }


def _groups(values: pa.DictionaryArray, size: np.ndarray, tokens: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The values with most bytes, and the others as one."""
    names = values.dictionary.to_pylist()
    codes = np.asarray(values.indices)
    total = np.bincount(codes, size, len(names)) if len(names) else np.zeros(0)
    order = sorted(np.flatnonzero(np.bincount(codes, minlength=len(names))), key=lambda i: (-total[i], names[i]))
    parts = [(names[i], codes == i) for i in order[:GROUPS]]
    if rest := order[GROUPS:]:
        parts.append((f"{len(rest)} others", np.isin(codes, rest)))
    return [
        {
            "name": name,
            "documents": int(rows.sum()),
            "bytes": int(size[rows].sum()),
            "bytes_per_token": {encoder: _rate(size, found, rows) for encoder, found in tokens.items()},
        }
        for name, rows in parts
    ]


def _rate(size: np.ndarray, tokens: np.ndarray, rows: np.ndarray) -> float | None:
    total = int(tokens[rows].sum())
    return round(int(size[rows].sum()) / total, 4) if total else None


def vocabulary(tokenizer: Tokenizer, special: set[str], encode: Encode, texts: Iterable[pa.Array]) -> dict[str, Any]:
    """Use of the learned tokens in the training sample: how many, unused, rare, and the longest of them."""
    count = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for text in texts:
        count += np.bincount(encode(text)[0], minlength=len(count))
    tokens = {name: token_bytes(name) for name in tokenizer.get_vocab() if name not in special}
    learned = {number: tokens[name] for name, number in tokenizer.get_vocab().items() if len(tokens.get(name, b"")) > 1}
    used = count[sorted(learned)]
    below = RARE * count.sum() / len(count)
    longest = sorted(learned, key=lambda number: (-len(learned[number]), number))[:LONGEST]
    return {
        "learned": len(learned),
        "tokens": int(count.sum()),
        "unused": int((used == 0).sum()),
        "rare": int(((used > 0) & (used < below)).sum()),
        "rare_below": round(float(below), 2),
        "longest": [
            {"id": number, "text": learned[number].decode("utf-8", "replace"), "count": int(count[number])}
            for number in longest
        ],
    }


def examples(tokenizer: Tokenizer, encode: Encode, texts: Iterable[pa.Array]) -> list[list[str]]:
    """The start of the first texts, cut into their tokens; bytes that are no whole character show as U+FFFD."""
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    found: list[list[str]] = []
    for text in texts:
        for start in pc.utf8_slice_codeunits(text.slice(0, EXAMPLES - len(found)), 0, EXAMPLE_CHARS).to_pylist():
            whole = start.rpartition(" ")[0] or start  # not half a word
            ids = encode(pa.array([whole]))[0].tolist()
            found.append([token_bytes(names[i]).decode("utf-8", "replace") for i in ids])
        if len(found) >= EXAMPLES:
            break
    return found
