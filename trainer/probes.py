"""Multiple-choice probes by log-likelihood: which choice does the model find most likely after the context?

Definitions of lm-evaluation-harness (v0.4, `multiple_choice`): the request is context + " " + choice; trailing
spaces of the context go to the continuation before tokenising; `acc` takes the largest summed log-probability,
`acc_norm` the largest per character of the choice. `bits_per_byte` is -log2 p(gold) per UTF-8 byte of the gold
choice (without the space), averaged over items: it moves long before the accuracies of a small model do.
Standard errors are those of a mean, s / sqrt(n) with n - 1 in s.

Only the items of `probes/<task>.jsonl` are read. Requests are tokenised once, sorted by length and scored in
batches of about `BATCH_TOKENS` padded tokens. A task with a limit uses the items of smallest hash, so every run
scores the same subset. The cost of simplicity: a context is computed once for each of its choices.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

BATCH_TOKENS = 8192
IGNORE = -100

# ids int64 [rows, length], targets int64 [rows, length] with IGNORE -> summed log-probability, float64 [rows]
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ProbeError(Exception):
    """A probe file that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Item:
    id: str
    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Request:
    """One choice of one item, tokenised: the last `scored` of `ids` are the continuation."""

    item: int
    choice: int
    ids: tuple[int, ...]
    scored: int


def read_items(path: Path, limit: int) -> list[Item]:
    """Items of one task; with a limit, those of smallest hash. Raises ProbeError naming the line."""
    items = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                item = Item(str(row["id"]), row["context"], tuple(map(str, row["choices"])), int(row["gold"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ProbeError(f"{path}:{number}: expected id, context, choices, gold, found {error!r}") from None
            if not 0 <= item.gold < len(item.choices) or not all(item.choices):
                raise ProbeError(f"{path}:{number}: expected non-empty choices and gold as an index into them")
            items.append(item)
    if limit and len(items) > limit:
        keys = [hashlib.blake2b(f"{path.stem}/{item.id}".encode(), digest_size=8).digest() for item in items]
        chosen = sorted(sorted(range(len(items)), key=lambda row: (keys[row], row))[:limit])
        items = [items[row] for row in chosen]
    return items


def split_request(context: str, choice: str) -> tuple[str, str]:
    """Context without trailing spaces, and the continuation that takes them over."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + " " + choice


def tokenise(tokenizer: Tokenizer, items: Sequence[Item], max_len: int, eos_id: int) -> list[Request]:
    """Requests of all choices, the context cut from the left to `max_len` input tokens.

    The continuation is what the tokens of the whole add to those of the context alone. An empty context is
    replaced by the end-of-text token.
    """
    pairs = [(row, c, *split_request(item.context, choice)) for row, item in enumerate(items)
             for c, choice in enumerate(item.choices)]  # fmt: skip
    whole = tokenizer.encode_batch([context + continuation for _, _, context, continuation in pairs],
                                   add_special_tokens=False)  # fmt: skip
    alone = tokenizer.encode_batch([context for _, _, context, _ in pairs], add_special_tokens=False)
    requests = []
    for (row, c, _, _), both, left in zip(pairs, whole, alone, strict=True):
        ids = both.ids
        scored = max(1, len(ids) - len(left.ids))
        if scored == len(ids):
            ids = [eos_id, *ids]
        ids = ids[-(max_len + 1) :]
        requests.append(Request(row, c, tuple(ids), min(scored, len(ids) - 1)))
    return requests


def batches(requests: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Request numbers grouped by similar length, at most `batch_tokens` padded tokens in a group."""
    by_length = sorted(range(len(requests)), key=lambda row: (len(requests[row].ids), row))
    groups: list[list[int]] = []
    for row in by_length:
        if not groups or (len(groups[-1]) + 1) * len(requests[row].ids) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def arrays(requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded inputs and targets; the padding comes after everything scored, so causality hides it."""
    width = max(len(request.ids) for request in requests) - 1
    ids = np.zeros((len(requests), width), np.int64)
    targets = np.full((len(requests), width), IGNORE, np.int64)
    for row, request in enumerate(requests):
        length = len(request.ids) - 1
        ids[row, :length] = request.ids[:-1]
        targets[row, length - request.scored : length] = request.ids[-request.scored :]
    return ids, targets


def turns(groups: int, rank: int, ranks: int) -> Iterator[tuple[int, bool]]:
    """The groups that a rank runs, in order, and whether each counts.

    Every rank runs equally many (a spare turn repeats the last group): sharded parameters are gathered by all
    ranks together.
    """
    for first in range(0, groups, ranks):
        yield min(first + rank, groups - 1), first + rank < groups


def score(requests: Sequence[Request], scorer: Scorer, rank: int = 0, ranks: int = 1) -> np.ndarray:
    """Summed log-probabilities, float64 [requests]; with several ranks, 0 for what the others score."""
    out = np.zeros(len(requests))
    groups = batches(requests)
    for turn, mine in turns(len(groups), rank, ranks):
        logprobs = scorer(*arrays([requests[row] for row in groups[turn]]))
        if mine:
            out[groups[turn]] = logprobs
    return out


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error (0 for a single item)."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0


def summarise(items: Sequence[Item], requests: Sequence[Request], logprobs: np.ndarray) -> dict[str, Any]:
    """n, acc, acc_norm, bits_per_byte and their standard errors from one log-probability for each request."""
    table = [np.full(len(item.choices), -np.inf) for item in items]
    for request, value in zip(requests, logprobs, strict=True):
        table[request.item][request.choice] = value
    acc, norm, bits = (np.zeros(len(items)) for _ in range(3))
    for row, item in enumerate(items):
        chars = np.array([len(choice) for choice in item.choices])
        acc[row] = int(table[row].argmax()) == item.gold
        norm[row] = int((table[row] / chars).argmax()) == item.gold
        bits[row] = -table[row][item.gold] / math.log(2) / len(item.choices[item.gold].encode())
    out: dict[str, Any] = {"n": len(items)}
    for name, values in (("acc", acc), ("acc_norm", norm), ("bits_per_byte", bits)):
        out[name], out[f"{name}_stderr"] = _mean(values)
    return out


class Probes:
    """All probe tasks of a run directory, tokenised once and scored as often as wanted."""

    def __init__(self, folder: Path, tokenizer_file: Path, limit: int, max_len: int, eos_id: int) -> None:
        self.tasks: dict[str, tuple[list[Item], list[Request]]] = {}
        paths = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        if not paths:
            return
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the binding raises a bare Exception
            raise ProbeError(f"{tokenizer_file}: expected a tokenizer, found {error}") from None
        for path in paths:
            items = read_items(path, limit)
            if items:
                self.tasks[path.stem] = (items, tokenise(tokenizer, items, max_len, eos_id))

    def evaluate(self, scorer: Scorer, gather: Callable[[np.ndarray], np.ndarray], rank: int, ranks: int,
                 ) -> list[dict[str, Any]]:  # fmt: skip
        """One row for each task. `gather` adds the arrays of all ranks."""
        rows = []
        for task, (items, requests) in self.tasks.items():
            logprobs = gather(score(requests, scorer, rank, ranks))
            rows.append({"task": task, **summarise(items, requests, logprobs)})
        return rows
