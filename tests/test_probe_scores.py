"""Probe requests and scores: those of one plain forward pass for each request, whatever the batches and ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import ROOT, SHAPE, make_run

from trainer.probe_items import Item, ProbeError, Request, read_items, split_request, tokenise
from trainer.probes import Probes, batches, turns
from trainer.shape import ModelConfig

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("prepared") / "run")


def test_request_moves_trailing_spaces():
    assert split_request("Answer:", "yes") == ("Answer:", " yes")
    assert split_request("Answer:  ", "yes") == ("Answer:", "   yes")


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(1, 200))
def test_batches_hold_each_request_once(lengths, limit):
    requests = [Request(tuple(range(n)), 1) for n in lengths]
    groups = batches(requests, limit)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[row] for row in g) <= limit for g in groups)


@given(st.integers(0, 20), st.integers(1, 5))
def test_turns_are_equally_many_and_count_once(groups, ranks):
    plans = [list(turns(groups, rank, ranks)) for rank in range(ranks)]
    assert len({len(plan) for plan in plans}) == 1
    assert sorted(group for plan in plans for group, mine in plan if mine) == list(range(groups))


def test_scorer_equals_the_slow_one(prepared):
    """Against one forward pass for each request, unpadded, with log-probabilities picked one by one."""
    import torch
    from tokenizers import Tokenizer

    from trainer.model import Llama
    from trainer.probe_cli import scorer_of

    tokenizer_file = prepared / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    model = Llama(ModelConfig(**SHAPE), 320, seed=3).eval()
    probes = Probes(prepared / "probes", tokenizer_file, 8, 32, 0)
    items = probes.tasks["toy"].items
    scorer = scorer_of(model, torch.device("cpu"))

    (row,) = probes.evaluate(scorer, lambda values: values, 0, 1)
    right, right_norm, bits = [], [], []
    for item in items:
        scores = []
        for choice in item.choices:
            context = tokenizer.encode(item.context.rstrip()).ids
            whole = tokenizer.encode(item.context + " " + choice).ids
            with torch.no_grad():
                table = torch.log_softmax(model(torch.tensor([whole]))[0], -1)
            scores.append(sum(float(table[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        right.append(scores.index(max(scores)) == item.gold)
        per_char = [score / len(choice) for score, choice in zip(scores, item.choices, strict=True)]
        right_norm.append(per_char.index(max(per_char)) == item.gold)
        bits.append(-scores[item.gold] / math.log(2) / len(item.choices[item.gold].encode()))
    assert row["n"] == len(items) == 8
    assert row["acc"] == pytest.approx(sum(right) / 8)
    assert row["acc_norm"] == pytest.approx(sum(right_norm) / 8)
    assert row["bits_per_byte"] == pytest.approx(sum(bits) / 8, abs=1e-5)
    assert row["bits_per_byte_stderr"] == pytest.approx(np.std(bits, ddof=1) / math.sqrt(8), abs=1e-5)


def test_any_number_of_ranks_and_any_batches_give_the_same(prepared):
    """A stand-in for a model: a log-probability that depends on every id and target of the row."""

    def scorer(ids, targets):
        wanted = targets != -100
        weights = 1 + np.arange(ids.shape[1]) % 7
        return -((ids * weights * (wanted.cumsum(1) == 0)).sum(1) % 97 / 97 + (targets * wanted % 13).sum(1) / 5)

    def rows(ranks, tokens):
        probes = [Probes(prepared / "probes", prepared / "tokenizer" / "tokenizer.json", 0, 32, 0, tokens)
                  for _ in range(ranks)]  # fmt: skip
        parts = []
        for rank in range(ranks):  # each rank's own part, as it hands it to gather
            probes[rank].evaluate(scorer, lambda mine: parts.append(mine) or mine, rank, ranks)
        return probes[0].evaluate(scorer, lambda _: np.sum(parts, 0), 0, ranks)

    expected = rows(1, 10_000)
    assert all(rows(ranks, tokens) == expected for ranks in (1, 2, 3, 7) for tokens in (1, 40, 200))


def toy_tokenizer(prepared):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(prepared / "tokenizer" / "tokenizer.json"))


def test_long_context_is_cut_from_the_left_and_empty_gets_eos(prepared):
    tokenizer = toy_tokenizer(prepared)
    items = [Item("a", "the cat " * 50, ("dog", "cat"), 0), Item("b", "", ("dog", "cat"), 0)]
    task = tokenise(tokenizer, "t", "t", items, 16, 0)
    long, _, empty, _ = (task.requests[number] for number in task.ask)
    assert (task.cut, task.left_out) == (1, 0)
    assert len(long.ids) == 17
    assert tokenizer.decode(list(long.ids)).endswith("the cat  dog")
    assert empty.ids[0] == 0
    assert empty.scored == len(empty.ids) - 1


def test_an_answer_longer_than_the_window_leaves_its_item_out(prepared, tmp_path):
    items = [Item("a", "the", ("dog", "cat " * 60), 0, "A:"), Item("b", "the", ("dog", "mat"), 1, "A:")]
    task = tokenise(toy_tokenizer(prepared), "t", "t", items, 16, 0)
    assert [item.id for item in task.items] == ["b"]
    assert (task.left_out, len(task.ask), len(task.prior)) == (1, 2, 2)
    rows = [{"id": "1", "context": "the", "choices": ["dog", "cat " * 60], "gold": 0}]
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ProbeError, match=r"answers of at most 16 tokens, found a longer one in each of 1 items"):
        Probes(tmp_path, prepared / "tokenizer" / "tokenizer.json", 0, 16, 0)


def test_hostile_texts_are_asked_like_any_other(prepared, tmp_path):
    from hostile import hostile_texts

    texts = [text for text in hostile_texts().to_pylist() if text and len(text) < 100_000]
    rows = [{"id": n, "context": text, "choices": [text[-40:], "dog"], "gold": 0} for n, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    probes = Probes(tmp_path, prepared / "tokenizer" / "tokenizer.json", 0, 512, 0)
    (row,) = probes.evaluate(lambda ids, _: -np.ones(len(ids)), lambda values: values, 0, 1)
    assert row["n"] + row["left_out"] == len(texts)
    assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))


def test_equal_requests_are_scored_once(prepared):
    items = [Item(str(n), "the cat", ("sat", "ran", "sat"), 0, "Answer:") for n in range(5)]
    task = tokenise(toy_tokenizer(prepared), "t", "t", items, 32, 0)
    assert len(task.requests) == 4
    assert task.ask.tolist() == [0, 1, 0] * 5
    assert task.prior.tolist() == [2, 3, 2] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": 1, "context": "c", "choices": ["a"], "gold": 0}', "two or more non-empty choices"),
        ('{"id": 1, "context": "c", "choices": ["a", ""], "gold": 0}', "two or more non-empty choices"),
        ('{"id": 1, "context": "c", "choices": ["a", "b"], "gold": 2}', "gold as an index"),
        ('{"id": 1, "context": "c", "choices": "ab", "gold": 0}', "expected id, context, choices, gold"),
        ('{"id": 1, "context": 5, "choices": ["a", "b"], "gold": 0}', "expected id, context, choices, gold"),
        ('{"id": 1, "context": "\\ud800", "choices": ["a", "b"], "gold": 0}', "expected id, context, choices, gold"),
        ("[" * 100_000, "expected id, context, choices, gold"),
        ("[]", "expected id, context, choices, gold"),
        ('{"id": 1, "context": "' + "c" * (1 << 20) + '"}', "at most 1,048,576 characters"),
    ],
)
def test_broken_items_name_their_line(tmp_path, row, message):
    good = '{"id": 0, "context": "c", "choices": ["a", "b"], "gold": 0}'
    (tmp_path / "t.jsonl").write_text(f"{good}\n{row}\n")
    with pytest.raises(ProbeError, match=message) as caught:
        read_items(tmp_path / "t.jsonl", 0)
    assert "t.jsonl:2: " in str(caught.value)


def test_items_of_one_task_agree(tmp_path):
    rows = [
        {"id": 0, "context": "c", "choices": ["a", "b"], "gold": 0, "unconditional": prior} for prior in ("x", None)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ProbeError, match="expected a new id"):
        read_items(tmp_path / "t.jsonl", 0)
    rows[1]["id"] = 1
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ProbeError, match="in all items of a task or in none"):
        read_items(tmp_path / "t.jsonl", 0)


def test_a_score_that_is_no_number_is_an_error(prepared):
    probes = Probes(prepared / "probes", prepared / "tokenizer" / "tokenizer.json", 0, 32, 0)
    with pytest.raises(ProbeError, match="toy: expected log-probabilities, found nan"):
        probes.evaluate(lambda ids, _: np.full(len(ids), np.nan), lambda values: values, 0, 1)


def test_item_scores_are_kept(prepared, tmp_path):
    """The means of the stored items are the row's numbers."""
    import pyarrow.parquet as pq

    probes = Probes(prepared / "probes", prepared / "tokenizer" / "tokenizer.json", 0, 32, 0)
    (row,) = probes.evaluate(lambda ids, targets: -(ids.sum(1) % 11) - 1.0, lambda values: values, 0, 1)
    table = pq.read_table(probes.save_items(tmp_path, 7))
    assert (tmp_path / "probe-items" / "step-7.parquet").exists()
    assert table.num_rows == row["n"] == 12
    for name in ("acc", "acc_norm", "bits_per_byte", "norm_correct_prob"):
        assert np.mean(table[name].to_pylist()) == pytest.approx(row[name])
    assert table["acc_uncond"].null_count == 12
    assert table["prior"].null_count == 12
    assert {len(scores) for scores in table["logprobs"].to_pylist()} == {2}
    assert row["chance"] == 0.5


def test_probe_limit_is_a_fixed_subset(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"task": "t", "id": str(i), "context": "c", "choices": ["a", "b"], "gold": 0} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = [item.id for item in read_items(path, 10)[1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert sorted(few) == sorted(item.id for item in read_items(path, 10)[1])
    assert set(few) < {item.id for item in read_items(path, 20)[1]}


def test_random_weights_are_at_chance_on_real_items(tmp_path):
    """OpenBookQA with an untrained model, the gold labels dealt out in turn: within 4 standard errors of 1 in 4.

    With the true labels it is not: an untrained model likes short choices (`acc`) or long ones (`acc_norm`), and
    in OpenBookQA the gold choice is seldom the shortest and often the longest.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    from trainer.model import Llama
    from trainer.probe_cli import scorer_of

    source = SHARED / "data" / "probes" / "openbookqa_test_500.jsonl"
    if not source.exists():
        pytest.skip(f"{source} is not on this machine")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = []
    for number, row in enumerate(map(json.loads, source.read_text().splitlines())):
        rows.append({"task": "openbookqa", "id": row["id"], "context": row["question_stem"],
                     "choices": row["choices"]["text"], "gold": number % 4})  # fmt: skip
    (tmp_path / "openbookqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = Llama(ModelConfig(**SHAPE), 256).eval()
    scorer = scorer_of(model, torch.device("cpu"))

    (found,) = Probes(tmp_path, tmp_path / "tokenizer.json", 0, 256, 0).evaluate(scorer, lambda x: x, 0, 1)
    assert found["n"] == 500
    assert 0.17 < found["acc"] < 0.33
    assert 0.17 < found["acc_norm"] < 0.33
    assert 7 < found["bits_per_byte"] < 9.5
