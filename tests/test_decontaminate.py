"""Decontamination: planted items are found and named, common text is left alone, bad item files are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch
from stages.decontaminate import Decontaminate, decontaminate, read_items, words_of
from stages.kernels.probe_match import window_keys

SHARED = Path(__file__).resolve().parents[2] / "shared"


class FakeTools:
    seed, node = 0, "decontaminate"

    def __init__(self, folder):
        self.folder = folder

    def artifact(self, node):
        assert node == "probes"
        return self.folder


def item(name, question, answers, gold=0, context=None, task="quiz"):
    return {"task": task, "id": name, "context": context or f"Question: {question}\nAnswer:", "choices": answers,
            "gold": gold, "question": question, "answers": answers}  # fmt: skip


LONG = (
    "The committee that met on the last Tuesday of every month decided to move the annual harvest fair indoors because"
)
ITEMS = [
    item("long", LONG, ["of the rain", "of the cost"]),
    item(
        "middle", "Which of these would let the most heat travel through?", ["a new pair of jeans", "a steel spoon"], 1
    ),
    item("tight", "Predators usually eat", ["lions", "wild bunnies", "grass"], 1),
    item("tiny", "Predators eat", ["bunnies"]),
    item("answer", "Fix a bike:", [" ".join(f"step{i}" for i in range(20)), "no"]),
]


@pytest.fixture
def tools(tmp_path):
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    return FakeTools(tmp_path)


def judge(texts, tools, **params):
    out = decontaminate(Batch({"text": pa.array(texts)}, len(texts)), Decontaminate(**params), tools)
    return out.columns["item"].to_pylist(), out.drop.to_pylist(), out


def test_rules(tools):
    texts = [
        f"Before. {LONG.upper()} of the rain, after.",
        " ".join(LONG.split()[:16]),  # 4 of 8 windows
        " ".join(LONG.split()[:14]),  # 2 of 8 windows
        "Which of these would let the most heat travel through? A. a new pair of jeans B. A steel spoon.",
        "Which of these would let the most heat travel through? A question for physicists.",
        "predators usually eat: Wild bunnies!",
        "Predators usually eat grass, as some say; but then the wild bunnies",  # not close, and not every choice
        "Predators usually eat A) lions B) wild bunnies C) grass",
        "Predators eat bunnies",  # too short to look for
        "intro " + " ".join(f"Step{i}," for i in range(20)),
        None,
        "",
    ]
    items, drop, out = judge(texts, tools)
    assert items == ["quiz/long"] * 3 + ["quiz/middle", None, "quiz/tight", None, "quiz/tight", None, "quiz/answer"] + [
        None, None,
    ]  # fmt: skip
    assert drop == [True, True, False, True, False, True, False, True, False, True, False, False]
    assert out.columns["overlap"].to_pylist()[1:3] == pytest.approx([0.5, 0.25])
    assert out.score.to_pylist()[:3] == [1.0, 0.5, None]
    assert out.reason.to_pylist()[0] == "probe_contamination"
    assert out.threshold.to_pylist()[0] == 0.5
    assert judge(texts[2:3], tools, overlap=0.25)[1] == [True]
    assert judge(["Predators eat bunnies"], tools, min_words=3)[0] == ["quiz/tiny"]
    assert judge(["Predators eat bunnies"], tools, gap=0, min_words=3)[0] == ["quiz/tiny"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(1, 13))
def test_window_keys_are_equal_where_words_are(words, length):
    hashes = words_of(" ".join(words))
    keys = window_keys(hashes, length)
    windows = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    assert len(keys) == len(windows)
    assert len(set(keys.tolist())) == len(set(windows))


def test_bad_item_files(tmp_path):
    with pytest.raises(ValueError, match="expected probe items in"):
        read_items(tmp_path)
    (tmp_path / "quiz.jsonl").write_text(json.dumps(ITEMS[0]) + "\n{}\n")
    with pytest.raises(ValueError, match=r"quiz.jsonl:2: expected the fields .*task is missing"):
        read_items(tmp_path)
    (tmp_path / "quiz.jsonl").write_text("{oops\n")
    with pytest.raises(ValueError, match=r"quiz.jsonl:1: expected a JSON object"):
        read_items(tmp_path)


def real_items():
    folder = SHARED / "data/probes"
    if not folder.exists():
        pytest.skip(f"no benchmark rows in {folder}")
    rows = []
    for name, stem in (
        ("openbookqa_test_500.jsonl", "question_stem"),
        ("commonsenseqa_validation_1221.jsonl", "question"),
    ):
        for line in (folder / name).open():
            row = json.loads(line)
            choices = row["choices"]
            gold = choices["label"].index(row["answerKey"])
            rows.append(item(row["id"], row[stem], choices["text"], gold, task=name.split("_")[0]))
    with gzip.open(folder / "hellaswag_validation_9042.jsonl.gz", "rt") as lines:
        for number, line in zip(range(1000), lines, strict=False):
            row = json.loads(line)
            rows.append(item(str(number), row["ctx"], row["endings"], int(row["label"]), row["ctx"], "hellaswag"))
    return rows


def test_planted_benchmark_items_are_found_and_ordinary_text_is_not(tmp_path):
    rows = real_items()
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tools = FakeTools(tmp_path)
    texts = (
        pq.read_table(SHARED / "data/neardup/docs.parquet", columns=["text"])["text"].slice(0, 4000).combine_chunks()
    )
    assert sum(judge(texts, tools)[1]) == 0
    around = [text[:500] for text in texts.slice(0, 100).to_pylist()]
    for form in (
        lambda row: f"{row['question']} {row['answers'][row['gold']]}",
        lambda row: f"Question: {row['question']}\nAnswer: {row['answers'][row['gold']]}",
        lambda row: row["question"] + "".join(f"\n{'ABCDE'[i]}. {text}" for i, text in enumerate(row["answers"])),
    ):
        planted = [f"{around[i % 100]}\n{form(row)}\n{around[(i + 7) % 100]}" for i, row in enumerate(rows)]
        items, drop, _ = judge(planted, tools)
        right = np.array([name == f"{row['task']}/{row['id']}" for name, row in zip(items, rows, strict=True)])
        assert np.mean(drop) >= 0.99
        assert right.mean() >= 0.9  # items that share their context are named by the first of them
        short = np.array([row["task"] == "openbookqa" for row in rows])
        assert np.array(drop)[short].mean() >= 0.99
