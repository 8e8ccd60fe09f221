"""The sample of a tokenizer: shares, caps and the order of nothing, against a slow version in plain Python."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import unit_hash
from stages import tokenizer_sample as sampling
from stages.tokenizer_sample import Balance, SampleParams

SEED = 3
COLUMNS = ("host", "kind", "language")


class Rows:
    """A corpus of documents given as (size, host, kind, language)."""

    def __init__(self, docs: list[tuple], order: list[int], step: int = 7) -> None:
        ids = [hashlib.md5(str(n).encode()).hexdigest() for n in order]
        self.columns = {
            "doc_id": pa.array(ids, pa.string()),
            "text": pa.array(["x" * docs[n][0] for n in order], pa.string()),
        }
        for at, name in enumerate(COLUMNS, 1):
            self.columns[name] = pa.array([docs[n][at] for n in order], pa.string())
        self.step = step

    def batches(self, *names: str):
        for start in range(0, len(self.columns["doc_id"]), self.step):
            part = {name: self.columns[name].slice(start, self.step) for name in names}
            yield type("Batch", (dict,), {"num_rows": len(part["doc_id"])})(part)


def chosen(docs: list[tuple], params: SampleParams, order: list[int] | None = None, step: int = 7) -> tuple[set, set]:
    order = list(range(len(docs))) if order is None else order
    found = sampling.choose(sampling.survey(Rows(docs, order, step), COLUMNS, SEED), params)
    return {order[i] for i in np.flatnonzero(found.train)}, {order[i] for i in np.flatnonzero(found.held_out)}


def slow(docs: list[tuple], params: SampleParams) -> set[int]:
    """The definition, document by document."""
    ids = pa.array([hashlib.md5(str(n).encode()).hexdigest() for n in range(len(docs))])
    held, rank, draw = (unit_hash(ids, SEED, f"tokenizer/{salt}") for salt in ("held-out", "sample", "draw"))
    rows, given_by = [], {}
    for n in sorted(range(len(docs)), key=lambda n: rank[n]):
        size, host = docs[n][0], docs[n][1] or ""
        if held[n] >= params.held_out_fraction and size:
            if given_by.get(host, 0) < params.max_host_share * params.sample_bytes:
                rows.append(n)
            given_by[host] = given_by.get(host, 0) + size

    turns = {}

    def divide(rows: list[int], budget: float, levels: tuple[Balance, ...]) -> None:
        if not levels:
            before = 0
            for n in rows:
                turns[n] = (before + draw[n] * docs[n][0]) / budget if budget else float("inf")
                before += docs[n][0]
            return
        at = COLUMNS.index(levels[0].column) + 1
        values = {v: [n for n in rows if (docs[n][at] or "") == v] for v in sorted({docs[n][at] or "" for n in rows})}
        size = {v: sum(docs[n][0] for n in group) for v, group in values.items()}
        stated = {v: levels[0].shares[v] for v in values if v in levels[0].shares}
        free = sum(size[v] ** levels[0].alpha for v in values if v not in stated)
        rest = max(1 - sum(levels[0].shares.values()), 0)
        weight = {v: stated[v] if v in stated else rest * size[v] ** levels[0].alpha / free for v in values}
        share = dict.fromkeys(values, 0.0)
        open_ = {v for v in values if weight[v] > 0}
        while open_:
            left = budget - sum(share[v] for v in values if v not in open_)
            total = sum(weight[v] for v in values if v in open_)
            share |= {v: left * weight[v] / total for v in open_}
            full = {v for v in open_ if share[v] >= size[v]}
            if not full:
                break
            share |= {v: float(size[v]) for v in full}
            open_ -= full
        for v, group in values.items():
            divide(group, share[v], levels[1:])

    if rows:
        divide(rows, float(params.sample_bytes), params.balance)
    train, total = set(), 0
    for n in sorted((n for n in turns if turns[n] < float("inf")), key=lambda n: (turns[n], rank[n])):
        if total < params.sample_bytes:
            train.add(n)
        total += docs[n][0]
    return train


DOCS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", "c", None]), st.sampled_from(["web", None]),
                          st.sampled_from(["en", "de", "sw"])), min_size=1, max_size=60)  # fmt: skip
BALANCES = st.sampled_from(
    [
        (),
        (Balance(column="language", alpha=0.3),),
        (Balance(column="language", shares={"en": 0.7, "de": 0.3}),),
        (Balance(column="language", shares={"en": 0.2, "fr": 0.5}), Balance(column="kind", alpha=0)),
        (Balance(column="kind"), Balance(column="host", alpha=1)),
    ]
)


@given(DOCS, BALANCES, st.integers(1, 400), st.floats(0.05, 1), st.randoms())
@settings(max_examples=150, deadline=None)
def test_the_sample_is_the_definition_in_any_order(docs, balance, limit: int, share: float, random) -> None:
    params = SampleParams(sample_bytes=limit, balance=balance, max_host_share=share, held_out_fraction=0.2)
    train, held_out = chosen(docs, params)
    order = list(range(len(docs)))
    random.shuffle(order)
    assert chosen(docs, params, order, step=11) == (train, held_out)
    assert not train & held_out
    assert train == slow(docs, params)
    size = sum(docs[n][0] for n in train)
    assert size < limit + 40


def corpus(sizes: dict[tuple[str, str], int], each: int = 100) -> list[tuple]:
    return [(each, f"h{n}", kind, language) for (language, kind), count in sizes.items() for n in range(count)]


def share_of(docs: list[tuple], train: set[int], at: int) -> dict[str, float]:
    total = sum(docs[n][0] for n in train)
    found: dict[str, float] = {}
    for n in train:
        found[docs[n][at]] = found.get(docs[n][at], 0) + docs[n][0] / total
    return found


def test_stated_shares_and_alpha() -> None:
    docs = corpus({("en", "web"): 9000, ("de", "web"): 900, ("sw", "web"): 100})
    params = SampleParams(sample_bytes=60_000, balance=(Balance(column="language", shares={"en": 0.7, "de": 0.3}),))
    assert share_of(docs, chosen(docs, params)[0], 3) == pytest.approx({"en": 0.7, "de": 0.3}, abs=0.01)
    params = SampleParams(sample_bytes=20_000, balance=(Balance(column="language", alpha=0.5),))
    roots = {"en": 94.9, "de": 30.0, "sw": 10.0}
    expected = {name: root / sum(roots.values()) for name, root in roots.items()}
    assert share_of(docs, chosen(docs, params)[0], 3) == pytest.approx(expected, abs=0.02)
    params = SampleParams(sample_bytes=60_000, balance=(Balance(column="language", alpha=1),))
    assert share_of(docs, chosen(docs, params)[0], 3)["en"] == pytest.approx(0.9, abs=0.01)


def test_what_a_value_cannot_fill_goes_to_its_siblings() -> None:
    docs = corpus({("en", "web"): 500, ("en", "book"): 10, ("de", "web"): 500})
    params = SampleParams(sample_bytes=40_000, held_out_fraction=0,
                          balance=(Balance(column="language", alpha=0), Balance(column="kind", alpha=0)))  # fmt: skip
    train, _ = chosen(docs, params)
    assert share_of(docs, train, 3) == pytest.approx({"en": 0.5, "de": 0.5}, abs=0.01)
    assert sum(docs[n][2] == "book" for n in train) == 10


def test_a_thousand_small_groups_do_not_overfill() -> None:
    docs = [(1000, f"h{n % 1000}", "web", "en") for n in range(5000)]
    params = SampleParams(sample_bytes=200_000, max_host_share=1, balance=(Balance(column="host", alpha=0),))
    train, _ = chosen(docs, params)
    assert 200_000 <= sum(docs[n][0] for n in train) < 201_001
    assert len({docs[n][1] for n in train}) > 150


def test_the_cap_of_a_host() -> None:
    docs = [(100, "big", "web", "en")] * 900 + [(100, f"h{n}", "web", "en") for n in range(300)]
    train, _ = chosen(docs, SampleParams(sample_bytes=20_000, max_host_share=0.1, balance=()))
    assert sum(docs[n][1] == "big" for n in train) == 20


def test_bad_parameters() -> None:
    with pytest.raises(ValueError, match="sum to at most 1"):
        Balance(column="kind", shares={"a": 0.7, "b": 0.6})
    with pytest.raises(ValueError, match="each column once"):
        SampleParams(balance=(Balance(column="kind"), Balance(column="kind")))
    numbers = {"doc_id": pa.array(["0" * 32]), "text": pa.array(["x"]), "score.value": pa.array([1.0])}
    corpus_of_numbers = Rows([(1, "a", "b", "c")], [0])
    corpus_of_numbers.columns = numbers
    with pytest.raises(ValueError, match="expected columns of text"):
        sampling.survey(corpus_of_numbers, ("score.value",), SEED)
