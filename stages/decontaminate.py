"""Remove documents that hold items of the manifest's own probes, with a rule of its own for short items.

Words are compared without case and punctuation. For each item of `<task>.jsonl`:

* Long texts: the question, the context and the gold answer, each if it has at least `ngram` words. The share of its
  distinct word n-grams that the document holds is the overlap; from `overlap` on the document is dropped. (13-grams:
  Brown et al. 2020, appendix C; the share of an item's n-grams: the Marin project's decontamination.)
* Short questions, below `ngram` words: the whole question followed by the gold answer (its first `ngram` words) at most
  `gap` words later, as after a list of choices. A question of fewer than 6 words must have its answer within 3
  words, or all its choices within `gap`; question and answers together need `min_words` words. The overlap is 1.

An n-gram rule alone never sees short items, about half of OpenBookQA and CommonsenseQA. Trade-off: an item below
`min_words` words in all ("Predators eat" / "bunnies") is not looked for, since it would match by chance, and
a paraphrase is not found at all. Cost: one pass, about 20 MB of text a second for each core.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Batch, Out, Params, Tools, doc_stage
from stages.kernels import minhash
from stages.kernels.probe_match import Table, scan, window_keys

REASON = "probe_contamination"
TIGHT_WORDS, TIGHT_GAP = 6, 3
_FIELDS = ("task", "id", "context", "choices", "gold", "question", "answers")


class Decontaminate(Params):
    items: str = Field("probes", description="artifact node with the items, `<task>.jsonl`")
    ngram: int = Field(13, description="words in an n-gram; a question of fewer is short", ge=2, le=50)
    overlap: float = Field(0.5, description="share of an item's n-grams from which a document is dropped", gt=0, le=1)
    gap: int = Field(64, description="words allowed between a short question and its answer", ge=0)
    min_words: int = Field(5, description="least words of a short question and its answer together", ge=2)


def read_items(folder: Path) -> list[dict]:
    """Items of all `*.jsonl` in the folder, sorted by file name. Raises ValueError with file, line and field."""
    items = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: expected a JSON object, found {line[:60]!r} ({error})") from error
            missing = [name for name in _FIELDS if name not in item]
            if missing:
                raise ValueError(f"{path}:{number}: expected the fields {', '.join(_FIELDS)}, {missing[0]} is missing")
            items.append(item)
    if not items:
        raise ValueError(
            f"decontaminate: expected probe items in {folder}/*.jsonl, found none; list a task in `probes`"
        )
    return items


def words_of(text: str) -> np.ndarray:
    """uint64[words]: the word hashes of one text."""
    data = np.frombuffer(text.encode("utf-8", "replace") or b" ", np.uint8)
    return minhash.word_hashes(data, 0, len(data), minhash.word_table())


def build_table(items: list[dict], ngram: int, gap: int, min_words: int) -> Table:
    """The windows of all items; items keep their position as number."""
    keys: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    lengths: set[int] = set()
    total: list[int] = []
    form_item: list[int] = []
    stems: list[tuple[int, int, int, int, int]] = []  # item, answer begin and end, gap, also
    answers = [np.zeros(0, np.uint64)]

    def find_form(number: int, words: np.ndarray) -> None:
        windows = np.unique(window_keys(words, ngram))
        keys.append(windows)
        targets.append(np.full(len(windows), len(total)))
        total.append(len(windows))
        form_item.append(number)
        lengths.add(ngram)

    def find_stem(number: int, words: np.ndarray, after: list[np.ndarray], gap: int) -> None:
        if not all(map(len, after)) or len(words) + sum(map(len, after)) < min_words:
            return
        keys.append(window_keys(words, len(words)))
        targets.append(np.array([-1 - len(stems)]))
        lengths.add(len(words))
        for answer in after:
            begin = stems[-1][2] if stems else 0
            also = len(stems) + 1 if answer is not after[-1] else -1
            stems.append((number, begin, begin + min(len(answer), ngram), gap, also))
            answers.append(answer[:ngram])

    for number, item in enumerate(items):
        choices = [words_of(answer) for answer in item["answers"]]
        gold = choices[item["gold"]]
        texts = {words.tobytes(): words for words in map(words_of, (item["question"], item["context"]))}
        for words in (*texts.values(), gold):
            if len(words) >= ngram:
                find_form(number, words)
        for words in texts.values():
            if TIGHT_WORDS <= len(words) < ngram:
                find_stem(number, words, [gold], gap)
            elif 0 < len(words) < ngram:
                find_stem(number, words, [gold], min(gap, TIGHT_GAP))
                find_stem(number, words, choices, gap)
    flat = np.concatenate([np.zeros(0, np.uint64), *keys])
    target = np.concatenate([np.zeros(0, np.int64), *targets])
    order = np.argsort(flat, kind="stable")
    distinct, first = np.unique(flat[order], return_index=True)
    bits = np.zeros(1 << max(16, (16 * len(distinct)).bit_length()), np.uint8)
    bits[distinct & np.uint64(len(bits) - 1)] = 1
    stem = np.ascontiguousarray(np.array(stems, np.int64).reshape(-1, 5).T)
    sizes = np.array(sorted(lengths), np.int64)
    return Table(
        sizes, np.array([minhash.power(size) for size in sizes], np.uint64), bits, distinct,
        np.append(first, len(flat)).astype(np.int64), target[order], np.array(total, np.int64),
        np.array(form_item, np.int64), stem[0], stem[1], stem[2], stem[3], stem[4], np.concatenate(answers),
    )  # fmt: skip


@lru_cache(maxsize=4)
def _load(folder: Path, ngram: int, gap: int, min_words: int) -> tuple[Table, pa.Array]:
    items = read_items(folder)
    names = pa.array([f"{item['task']}/{item['id']}" for item in items], pa.string())
    return build_table(items, ngram, gap, min_words), names


@doc_stage(
    "decontaminate", Decontaminate, reads=("text",), artifacts=lambda params: (params.items,), drops=True,
    adds=[("overlap", pa.float32()), ("item", pa.string())],
)  # fmt: skip
def decontaminate(batch: Batch, params: Decontaminate, tools: Tools) -> Out:
    """Drop documents that hold an item of the probes.

    Adds `overlap`, the greatest share of an item found in the document, and `item`, which one (`task/id`; null
    where nothing was found). Reason `probe_contamination`; the score is the overlap.
    """
    table, names = _load(tools.artifact(params.items), params.ngram, params.gap, params.min_words)
    overlap, item = scan(*minhash.text_spans(batch["text"]), minhash.word_table(), table)
    drop = overlap >= np.float32(params.overlap)
    out = Out({"overlap": pa.array(overlap), "item": names.take(pa.array(item, mask=item < 0))}, drop=pa.array(drop))
    out.reason = pc.if_else(out.drop, pa.scalar(REASON), pa.scalar(None, pa.string()))
    out.score = pa.array(overlap.astype(np.float64), mask=~drop)
    out.threshold = pa.array(np.full(len(drop), params.overlap), mask=~drop)
    return out
