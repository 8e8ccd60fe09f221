"""Probe items and their requests: what is asked of the model, as tokens.

An item is a line of `probes/<task>.jsonl`: context, choices, which of them is right, and for some tasks the context
of an unconditional score. Requests are cut as lm-evaluation-harness does (v0.4, `TemplateLM._encode_pair`): context
+ " " + choice, trailing white space of the context moved to the continuation, the continuation being what the tokens
of the whole add to those of the context. Special tokens that the tokenizer puts in front by itself stay, as there.

A context that does not fit the model's window is cut from the left and counted; an item with an answer longer than
the window is left out and counted. Equal requests are scored once. The cost of simplicity: a context is computed once
for each of its choices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

MAX_LINE = 1 << 20  # characters of an item; the longest of the known tasks has 3,000


class ProbeError(Exception):
    """Probe items that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Item:
    """`unconditional` is the context of the unconditional score; None where the task has no such score."""

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int
    unconditional: str | None = None

    @property
    def digest(self) -> str:
        """16 hex digits over everything that is asked: equal ones make two runs comparable."""
        asked = json.dumps([self.context, self.choices, self.gold, self.unconditional])
        return hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Request:
    """A context with a continuation: the last `scored` of `ids` are the continuation. An array of ids cannot be
    looked up among other requests."""

    ids: tuple[int, ...] | np.ndarray
    scored: int


@dataclass(frozen=True)
class Task:
    """The items of a task and what is scored for them.

    `ask` and `prior` hold, choice after choice of item after item, the number of the request in `requests`: with
    the item's context, and with the unconditional one (None where the task has none).
    """

    name: str
    label: str
    items: tuple[Item, ...]
    requests: tuple[Request, ...]
    ask: np.ndarray  # int64 [choices of all items]
    prior: np.ndarray | None
    cut: int  # items with a context cut from the left
    left_out: int  # items with an answer longer than the window


def read_items(path: Path, limit: int) -> tuple[str, list[Item]]:
    """The label of a task and its items; with a limit, those of smallest hash. Raises ProbeError naming the line."""
    items: list[Item] = []
    label, seen = path.stem, set[str]()
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if len(line) > MAX_LINE:
                raise ProbeError(f"{where}: expected an item of at most {MAX_LINE:,} characters, found {len(line):,}")
            try:
                row = json.loads(line)
                item = _item(row)
                label = str(row.get("label", label))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ProbeError(f"{where}: expected id, context, choices, gold, found {error!r}") from None
            if len(item.choices) < 2 or not 0 <= item.gold < len(item.choices) or not all(item.choices):
                raise ProbeError(f"{where}: expected two or more non-empty choices and gold as an index into them")
            if item.id in seen:
                raise ProbeError(f"{where}: expected a new id, found {item.id!r} again")
            if items and (item.unconditional is None) != (items[0].unconditional is None):
                raise ProbeError(f"{where}: expected `unconditional` in all items of a task or in none")
            seen.add(item.id)
            items.append(item)
    if limit and len(items) > limit:
        keys = [hashlib.blake2b(f"{path.stem}/{item.id}".encode(), digest_size=8).digest() for item in items]
        chosen = sorted(sorted(range(len(items)), key=lambda row: (keys[row], row))[:limit])
        items = [items[row] for row in chosen]
    return label, items


def _item(row: dict[str, Any]) -> Item:
    prior = row.get("unconditional")
    if not isinstance(row["context"], str) or not isinstance(prior, str | None) or not isinstance(row["choices"], list):
        raise TypeError("context is no text, or choices no list")
    "".join([row["context"], prior or "", *map(str, row["choices"])]).encode()  # half a surrogate pair is no text
    return Item(str(row["id"]), row["context"], tuple(map(str, row["choices"])), int(row["gold"]), prior)


def split_request(context: str, choice: str) -> tuple[str, str]:
    """Context without trailing white space, and the continuation that takes it over."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + " " + choice


def tokenise(
    tokenizer: Tokenizer, name: str, label: str, items: Sequence[Item], max_len: int, eos_id: int
) -> Task:  # fmt: skip
    """The requests of a task, at most `max_len` input tokens each. An empty context is replaced by `eos_id`."""
    asked = [split_request(item.context, choice) for item in items for choice in item.choices]
    bare = [split_request(item.unconditional, choice) for item in items if item.unconditional is not None
            for choice in item.choices]  # fmt: skip
    pairs = list(dict.fromkeys(asked + bare))
    made = dict(zip(pairs, _encode(tokenizer, pairs, eos_id), strict=True))
    fits = {pair for pair, request in made.items() if request.scored <= max_len}
    chosen, starts = [], np.cumsum([0, *(len(item.choices) for item in items)])
    for row in range(len(items)):
        mine = slice(starts[row], starts[row + 1])
        if all(pair in fits for pair in asked[mine] + bare[mine]):
            chosen.append(row)
    kept = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in chosen] or [np.zeros(0, np.int64)])
    cut = sum(any(len(made[pair].ids) > max_len + 1 for pair in asked[starts[row] : starts[row + 1]]) for row in chosen)
    numbers: dict[Request, int] = {}

    def number(pair: tuple[str, str]) -> int:
        request = made[pair]
        return numbers.setdefault(Request(request.ids[-(max_len + 1) :], request.scored), len(numbers))

    ask = np.array([number(asked[at]) for at in kept], np.int64)
    prior = np.array([number(bare[at]) for at in kept], np.int64) if bare else None
    kept_items = tuple(items[row] for row in chosen)
    return Task(name, label, kept_items, tuple(numbers), ask, prior, cut, len(items) - len(chosen))


def _encode(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], eos_id: int) -> list[Request]:
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    alone = dict(zip(contexts, (len(found.ids) for found in tokenizer.encode_batch(contexts)), strict=True))
    requests = []
    whole = tokenizer.encode_batch([context + continuation for context, continuation in pairs])
    for (context, _), encoding in zip(pairs, whole, strict=True):
        ids = encoding.ids
        scored = max(1, len(ids) - alone[context])
        requests.append(Request(tuple([eos_id, *ids] if scored == len(ids) else ids), scored))
    return requests
