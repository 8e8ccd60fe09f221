"""The report's sections on training and probes: verdicts follow from errors and chance, and nothing breaks the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scored_runs import items_of, write_round
from synthetic_run import SCRIPT, write_run

from pipeline import paired
from pipeline.report import build
from pipeline.report.probes import section as probes
from pipeline.report.training import section, spikes, validation

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
    assert "fell beyond noise in hella (toy), did not move beyond it in open (toy)." in text
    assert "Accuracy carries a signal in hella (toy)" in text
    assert "Accuracy carries no signal here in open (toy)" in text
    assert "training does not show in open (toy)" in text
    least, most = (100 * task["accuracy"]["visible"] for task in (hella, open_))
    assert f"must lie {least:.1f} to {most:.1f} points apart" in text
    assert not open_["accuracy"]["beyond"]


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


def test_validation_by_source(tmp_path):
    web = {"n": 64, "loss": 3.0, "loss_stderr": 0.1, "bits_per_byte": 1.2, "bits_per_byte_stderr": 0.05}
    steps = [{"step": 1, "loss": 5.0}, {"step": 2, "validation": {"web": web | {"bits_per_byte": 2.0}}},
             {"step": 3, "validation": {"code": web, "web": web}}, {"step": 4, "validation": {}}]  # fmt: skip
    tokens = {"totals": {"validation": {"tokens": 300, "text_bytes": 1200}}, "tokenizer": {"vocab_size": 16}}
    found = validation(tmp_path, steps, tokens)
    assert {name: row["first"] for name, row in found["sources"].items()} == {"code": None, "web": 2.0}
    assert found["sources"]["web"]["change"] == pytest.approx(1.2 / 2 - 1)
    assert found["uniform"] == 1.0  # 4 bits a token, 4 bytes a token
    assert validation(tmp_path, steps[:1], tokens) is None
    assert validation(tmp_path, steps, None)["uniform"] is None


def logged(steps: int) -> list[dict]:
    """Step 0 has a validation and no loss; speeds double half way."""
    web = {"n": 64, "loss": 8.0, "loss_stderr": 0.1, "bits_per_byte": 3.0, "bits_per_byte_stderr": 0.0004}
    rows = [{"step": 0, "tokens": 0, "val_loss": 8.0, "val_bits_per_byte": 3.0, "validation": {"web": web}}]
    for step in range(1, steps + 1):
        speed = {"tokens_per_s": 100.0 if step <= steps / 2 else 200.0, "mfu": 0.4, "data_wait": 0.01,
                 "memory_bytes": 10**9 + step}  # fmt: skip
        rows.append({"step": step, "loss": 8.0 - step / steps, "tokens": 100 * step, **speed})
    rows[-1] |= {"val_loss": 4.0, "validation": {"web": web | {"loss": 4.0, "bits_per_byte": 1.5}}}
    return rows


def write_spike(run: Path, step: int, **changed) -> None:
    (run / "spikes").mkdir(exist_ok=True)
    body = {"step": step, "kind": "spike", "loss": 9.5, "expected": 4.25, "deviations": 31.02,
            "documents": [{"doc_id": "a"}, {"doc_id": "b"}, {"doc_id": "a"}]} | changed  # fmt: skip
    (run / "spikes" / f"step-{step}.json").write_text(json.dumps(body))


def test_speed_sources_and_epochs(tmp_path):
    tokens = {"sources": {name: {"train": {"tokens": size}} for name, size in (("web", 900), ("code", 100))}}
    rows = logged(40)
    found = section(tmp_path, rows, tokens, {"loss": 7.0, "epochs": {"web": 4.0, "code": 4.0}})
    assert (found["first"]["step"], found["last"]["step"]) == (1, 40)
    assert found["speed"]["seconds"] == pytest.approx(20 + 10)
    assert found["speed"]["data_wait"] == pytest.approx(0.01)
    assert found["speed"]["memory"] == 10**9 + 40
    assert found["speed"]["tokens_per_s"]["low"] == 100
    assert [(row["name"], row["tokens"], row["epochs"], row["change"]) for row in found["sources"]] == [
        ("web", 900, 4.0, -0.5), ("code", 100, 4.0, None), ("all, by their sizes", 1000, None, None)]  # fmt: skip
    assert not section(tmp_path, rows, tokens, {"loss": 6.9, "epochs": {"web": 4.0}})["epochs"], "another training's"
    assert section(tmp_path, rows[:1], None, None)["svg"] == ""
    assert section(tmp_path, [], None, None) is None


def test_spikes_link_to_their_reports_and_to_nothing_else(tmp_path):
    write_spike(tmp_path, 30)
    write_spike(tmp_path, 7, kind="nan", loss="nan", expected=None, deviations=None)
    (tmp_path / "spikes" / "step-8.json").write_text(json.dumps({"step": 9, "documents": []}))
    (tmp_path / "spikes" / "step-x.json").write_text("{")
    (tmp_path / "spikes" / "step-1.json").write_text("[1]")
    assert [(row["file"], row["loss"], row["documents"]) for row in spikes(tmp_path / "spikes")] == [
        ("step-7.json", None, 2), ("step-30.json", 9.5, 2)]  # fmt: skip
    assert spikes(tmp_path / "none") == []


def test_the_page_shows_it_and_escapes_it(tmp_path):
    run = write_run(tmp_path, 300, hostile=True)
    (run / "probes.jsonl").unlink()
    tasks = {f"hella{SCRIPT.replace('/', '')}": TASKS["hella"], "open": TASKS["open"]}
    write_round(run, 0, tasks, 0.0, seed=1)
    write_round(run, 400, tasks, 1.0, seed=2)
    web = {"n": 64, "loss": 3.0, "loss_stderr": 0.1, "bits_per_byte": 1.2, "bits_per_byte_stderr": None}
    with (run / "train.jsonl").open("w") as out:
        for step in (0, 200, 400):
            row = {"step": step, "tokens": 9 * step, "validation": {f"web{SCRIPT}": web, "code": web}}
            row |= {"val_loss": 4.0, "val_bits_per_byte": 1.3} | ({"loss": 4.0} if step else {})
            out.write(json.dumps(row) + "\n")
    write_spike(run, 200)
    text = build(run).read_text()
    section = text[text.index('<section id="training">') : text.index('<section id="stages">')]
    assert SCRIPT not in section
    assert "<script" not in section
    for said in ("before training", "web&lt;script&gt;", "all, by their sizes", "above chance</span>", "better</span>",
                 '<a href="../spikes/step-200.json">step 200</a>', "31.0", "Bits per byte by source",
                 "What these probes tell, and what they cannot"):  # fmt: skip
        assert said in section, said


def test_files_of_older_runs(tmp_path):
    """A tokenizer without groups or vocabulary, probes without the newer numbers, rows without speeds or validation."""
    run = write_run(tmp_path, 300)
    held = {"documents": 9, "bytes": 54_259, "tokens": 15_335, "bytes_per_token": 3.5382, "used": 1839}
    artifact = {"fingerprint": "5d13" * 16, "vocab_size": 4096, "held_out": held,
                "sample": {"documents": 3, "bytes": 9, "hosts": 1}}  # fmt: skip
    (run / "tokenizer/artifact.json").write_text(json.dumps(artifact))
    (run / "train.jsonl").write_text('{"step": 1, "loss": 8.3, "tokens": 4096}\n{"step": 2, "tokens": 8192}\n')
    old = {"task": "hellaswag", "n": 200, "acc": 0.25, "bits_per_byte": 4.0}
    (run / "probes.jsonl").write_text(json.dumps({"step": 0, **old}) + "\n" + json.dumps({"step": 2, **old}))
    text = build(run).read_text()
    assert "3.54 on 9 documents" in text
    assert "of 1 host," in text
    (run / "train.jsonl").unlink()
    (run / "tokenizer/artifact.json").write_text(json.dumps({"fingerprint": "ab", "vocab_size": 9}))
    assert 'id="training"' not in build(run).read_text()


def test_token_text_is_shown_not_obeyed(tmp_path):
    run = write_run(tmp_path, 300, hostile=True)
    text = build(run).read_text()
    section = text[text.index('<section id="tokens">') : text.index('<section id="models">')]
    assert "<script" not in section
    assert section.count("&lt;script&gt;") == 3  # a group, a token, an example
    assert "+11.7 %" in section  # 4.38 / 3.92
