"""The report's sections on training and probes: verdicts follow from errors and chance, and nothing breaks the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scored_runs import items_of, write_round
from synthetic_run import SCRIPT, write_run

from pipeline import paired
from pipeline.report import build
from pipeline.report.training import probes, validation

TASKS = {"hella": items_of("hella", 500), "open": items_of("open", 60)}


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]


@pytest.fixture
def learned(tmp_path) -> Path:
    """The large task is learned, the small one too little to see."""
    write_round(tmp_path, 0, TASKS, 0.0, seed=1)
    (tmp_path / "probes.jsonl").rename(tmp_path / "first.jsonl")
    after = {"hella": 1.2, "open": 0.0}
    tables, rows = [], []
    for task, skill in after.items():
        rows += write_round(tmp_path, 90, {task: TASKS[task]}, skill, seed=2)
        tables.append(paired.pq.read_table(paired.path_of(tmp_path, 90)))
    paired.pq.write_table(paired.pa.concat_tables(tables), paired.path_of(tmp_path, 90))
    lines = (tmp_path / "first.jsonl").read_text() + "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "probes.jsonl").write_text(lines)
    return tmp_path


def test_verdicts_of_a_task_that_learned_and_of_one_that_did_not(learned):
    found = probes(learned, rows_of(learned))
    hella, open_ = found["tasks"]
    assert (hella["label"], hella["paired"], hella["change"].better) == ("hella (toy)", True, True)
    assert hella["accuracy"]["signal"]
    assert open_["change"].noise
    assert not open_["accuracy"]["signal"]
    assert open_["accuracy"]["visible"] > hella["accuracy"]["visible"] > 0.03
    assert hella["accuracy"]["needed"] > 10_000
    text = " ".join(found["said"])
    assert "Bits per byte moved beyond noise in hella (toy)." in text
    assert "Accuracy carries no signal here in open (toy)" in text
    assert "open (toy) tells nothing about this model" in text
    assert "not told from chance" in " ".join(open_["said"])


def test_without_item_scores_the_means_decide(learned):
    paired.path_of(learned, 0).unlink()
    hella, _ = probes(learned, rows_of(learned))["tasks"]
    assert not hella["paired"]
    assert hella["change"].better


def test_broken_item_scores_are_a_note(learned):
    paired.path_of(learned, 0).write_bytes(b"PAR1")
    assert "expected the item scores" in probes(learned, rows_of(learned))["note"]


def test_one_round_has_no_change(tmp_path):
    write_round(tmp_path, 5, TASKS, 0.0)
    found = probes(tmp_path, rows_of(tmp_path))
    assert all(task["change"] is None for task in found["tasks"])
    assert probes(tmp_path, []) is None


def test_above_chance_from_the_start_is_no_signal(tmp_path):
    """An untrained model that likes long answers may be right more often than a guess."""
    write_round(tmp_path, 0, {"hella": TASKS["hella"]}, 1.0, seed=1)
    write_round(tmp_path, 9, {"hella": TASKS["hella"]}, 1.0, seed=1)
    (task,) = probes(tmp_path, rows_of(tmp_path))["tasks"]
    assert task["accuracy"]["beyond"]
    assert not task["accuracy"]["signal"]
    assert "was so before training" in " ".join(task["said"])


def test_validation_by_source():
    web = {"n": 64, "loss": 3.0, "loss_stderr": 0.1, "bits_per_byte": 1.2, "bits_per_byte_stderr": 0.05}
    steps = [{"step": 1, "loss": 5.0}, {"step": 2, "validation": {"web": web | {"bits_per_byte": 2.0}}},
             {"step": 3, "validation": {"code": web, "web": web}}, {"step": 4, "validation": {}}]  # fmt: skip
    tokens = {"totals": {"validation": {"tokens": 300, "text_bytes": 1200}}, "tokenizer": {"vocab_size": 16}}
    found = validation(steps, tokens)
    assert [(row["name"], row["first"]) for row in found["sources"]] == [("code", None), ("web", 2.0)]
    assert found["uniform"] == 1.0  # 4 bits a token, 4 bytes a token
    assert validation(steps[:1], tokens) is None
    assert validation(steps, None)["uniform"] is None


def test_the_page_shows_it_and_escapes_it(tmp_path):
    run = write_run(tmp_path, 300, hostile=True)
    (run / "probes.jsonl").unlink()
    tasks = {f"hella{SCRIPT.replace('/', '')}": TASKS["hella"], "open": TASKS["open"]}
    write_round(run, 0, tasks, 0.0, seed=1)
    write_round(run, 400, tasks, 1.0, seed=2)
    web = {"n": 64, "loss": 3.0, "loss_stderr": 0.1, "bits_per_byte": 1.2, "bits_per_byte_stderr": None}
    with (run / "train.jsonl").open("w") as out:
        for step in (200, 400):
            row = {"step": step, "loss": 4.0, "tokens": 9 * step, "validation": {f"web{SCRIPT}": web, "code": web}}
            out.write(json.dumps(row | {"val_loss": 4.0, "val_bits_per_byte": 1.3}) + "\n")
    text = build(run).read_text()
    section = text[text.index('<section id="training">') : text.index('<section id="stages">')]
    assert SCRIPT not in section
    assert "<script" not in section
    for said in ("before training", "step 400", "web&lt;script&gt;", "all, by their bytes", "accuracy: above chance",
                 "bits: better", "What these probes tell, and what they cannot"):  # fmt: skip
        assert said in section, said
