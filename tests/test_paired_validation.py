"""Validation of two evaluations on the sequences of both: the ratio and its error, and what is said without pairs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_runs import items_of, write_round
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.compare import compare
from pipeline.errors import TamisError
from pipeline.paired import student
from pipeline.paired_validation import pair, path_of, ratio_difference, read, together
from pipeline.report.training import section, validation

TASKS = {"hella": items_of("hella", 60)}
BITS = st.floats(0, 1e4)


def write_scores(run: Path, step: int, texts: dict[str, range], skill: float = 0.0, seed: int = 0) -> dict:
    """Scores of two sequences for each numbered document; the row of train.jsonl. What documents have in common, how
    hard they are, does not depend on `seed`."""
    rng, rows, row = np.random.default_rng(seed), [], {}
    for source, documents in texts.items():
        nats, size = [], []
        for document in documents:
            own = np.random.default_rng(document)
            for first in (0, 64):
                bytes_ = float(own.integers(100, 400))
                rate = own.gamma(8, 0.1) - skill + 0.02 * rng.normal()
                rows.append({"source": source, "doc_id": f"{document:032x}", "first": first, "digest": source,
                             "nll": bytes_ * rate, "targets": 64, "bytes": bytes_})  # fmt: skip
                nats.append(bytes_ * rate)
                size.append(bytes_)
        row[source] = {"n": len(nats), "loss": 1.0, "loss_stderr": 0.1, "bits_per_byte_stderr": 0.1,
                       "bits_per_byte": sum(nats) / sum(size) / math.log(2)}  # fmt: skip
    path_of(run, step).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path_of(run, step))
    line = {"step": step, "tokens": 100, "val_bits_per_byte": 1.0, "val_bits_per_byte_stderr": 0.1, "validation": row}
    with (run / "train.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")
    return line


@pytest.fixture
def runs(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_round(tmp_path / name, 10, TASKS, 0.0)
    return tmp_path / "a", tmp_path / "b"


def test_a_known_difference():
    """Changes of -1 and -3 bits over 10 and 20 bytes: -4/30; residuals 1/3 and -1/3."""
    found = ratio_difference(np.array([21.0, 43.0]), np.array([20.0, 40.0]), np.array([10.0, 20.0]))
    assert (found.before, found.after) == (pytest.approx(64 / 30), pytest.approx(2.0))
    assert found.change == pytest.approx(-4 / 30)
    assert found.error == pytest.approx(math.sqrt(2 * (2 / 9)) / 30)
    assert found.high - found.change == pytest.approx(12.706 * found.error, rel=1e-4)
    assert found.noise


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(BITS, BITS, st.floats(0.5, 1e4)), min_size=2, max_size=30))
def test_the_difference_equals_the_slow_one(units):
    found = ratio_difference(*np.array(units).T)
    total = sum(size for _, _, size in units)
    change = sum(after for _, after, _ in units) / total - sum(before for before, _, _ in units) / total
    squares = sum((after - before - change * size) ** 2 for before, after, size in units)
    error = (len(units) / (len(units) - 1) * squares) ** 0.5 / total
    assert found.change == pytest.approx(change, abs=1e-6)
    assert found.error == pytest.approx(error, abs=1e-6)
    assert found.low <= found.change <= found.high


def test_the_error_is_what_other_samples_show():
    """400 samples of 40 documents of unequal sizes: the spread of the difference is the stated error."""
    rng, found = np.random.default_rng(2), []
    for _ in range(400):
        size = rng.integers(200, 4000, 40).astype(float)
        before = size * rng.gamma(8, 0.1, 40)
        found.append(ratio_difference(before, before - size * (0.1 + size / 20000 + 0.1 * rng.normal(size=40)), size))
    assert np.mean([one.error for one in found]) == pytest.approx(np.std([one.change for one in found]), rel=0.12)


def test_students_quantiles():
    known = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 30: 2.0423, 1000: 1.9623}
    assert {freedom: student(freedom) for freedom in known} == pytest.approx(known, rel=2e-3)


def test_pieces_of_a_document_are_one_unit(tmp_path):
    write_scores(tmp_path, 0, {"web": range(9)}, seed=1)
    write_scores(tmp_path, 5, {"web": range(9)}, 0.1, seed=2)
    before, after = (read(path_of(tmp_path, step))["web"] for step in (0, 5))
    found = pair(before, after)
    assert (found.sequences, found.shared, found.documents) == ((18, 18), 18, 9)
    units = [side.nats.reshape(9, 2).sum(1) / math.log(2) for side in (before, after)]
    expected = ratio_difference(*units, before.bytes.reshape(9, 2).sum(1))
    assert dataclasses.astuple(found.difference)[1:] == pytest.approx(dataclasses.astuple(expected)[1:])


def test_sources_together(tmp_path):
    for step, skill in ((0, 0.0), (5, 0.1)):
        write_scores(tmp_path, step, {"web": range(30), "code": range(30, 40)}, skill, seed=step)
    before, after = (read(path_of(tmp_path, step)) for step in (0, 5))
    found = {source: pair(before[source], after[source]) for source in before}
    whole = together(found, {source: one.bytes for source, one in found.items()})
    nats = [sum(side[source].nats.sum() for source in side) for side in (before, after)]
    total = sum(side.bytes.sum() for side in before.values())
    assert whole.change == pytest.approx((nats[1] - nats[0]) / total / math.log(2))
    shares = [one.bytes / total for one in found.values()]
    errors = [one.difference.error for one in found.values()]
    assert whole.error == pytest.approx(math.hypot(*np.multiply(shares, errors)))
    assert together(found, {"web": 3.0}).change == pytest.approx(found["web"].difference.change)
    assert together(found, {}) is None


def test_the_same_sequences(runs):
    a, b = runs
    write_scores(a, 10, {"web": range(40), "code": range(40, 60)}, seed=1)
    write_scores(b, 10, {"web": range(40), "code": range(40, 60)}, 0.05, seed=2)
    found = compare(a, b)
    assert [(name, count, one.better) for name, count, one in found.validation] == [
        ("code", 40, True),
        ("web", 80, True),
    ]
    ((_, sources, whole),) = found.sources
    assert (sources, whole.better) == (2, True)
    assert found.validation[1][2].error < 0.01 < math.hypot(0.1, 0.1), "pairing sharpens"
    assert (found.unpaired, found.notes) == ([], [])


def test_some_sequences(runs):
    a, b = runs
    write_scores(a, 10, {"web": range(40)}, seed=1)
    write_scores(b, 10, {"web": range(30, 60)}, 0.05, seed=2)
    found = compare(a, b)
    ((_, count, one),) = found.validation
    assert (count, one.better, found.sources) == (20, True, [])
    assert found.notes == [
        "validation of web is compared on the 20 sequences (10 documents) that both scored, of 80 in A and 60 in B"
    ]


def test_no_sequence_in_both(runs):
    a, b = runs
    write_scores(a, 10, {"web": range(40), "wiki": range(5)}, seed=1)
    write_scores(b, 10, {"web": range(40, 80)}, 1.0, seed=2)
    found = compare(a, b)
    assert found.validation == []
    assert [(name, count) for name, count, _ in found.unpaired] == [("web", 80)]
    assert found.notes[0].startswith(
        "validation of web is not paired: no sequence is in both, so the held-out texts or"
    )
    assert "says nothing about the models unless the validation data are alike" in found.notes[0]
    assert found.notes[1] == "validation of wiki is in one of the two alone"
    text = CliRunner().invoke(app, ["compare", str(a), str(b)], env={"COLUMNS": "200"}).output
    assert "not paired" in text
    assert "Validation, each on its own text" in text
    assert "0 of 5 differences are outside noise" in " ".join(text.split()), "what is not paired is not counted"


def test_scores_that_were_not_kept_or_are_broken(runs):
    a, b = runs
    for run in runs:
        write_scores(run, 10, {"web": range(9)})
    path_of(b, 10).write_bytes(b"PAR1")
    with pytest.raises(TamisError, match=r"step-10\.parquet: expected the scores of validation sequences, found"):
        compare(a, b)
    path_of(b, 10).unlink()
    found = compare(a, b)
    assert [name for name, _, _ in found.unpaired] == ["web"]
    assert "the scores of its sequences were not kept" in found.notes[0]
    write_scores(b, 10, {"web": range(8, 9)})
    assert "both scored 2 sequences of one document, which has no error" in compare(a, b).notes[0]


def test_the_report_says_whether_validation_moved(tmp_path):
    first = write_scores(tmp_path, 0, {"web": range(40), "code": range(40, 60)}, seed=1)
    last = write_scores(tmp_path, 90, {"web": range(40)}, 0.05, seed=2)
    other = write_scores(tmp_path, 91, {"code": range(40, 60)}, 0.0, seed=3)
    tables = [pq.read_table(path_of(tmp_path, step)) for step in (90, 91)]
    pq.write_table(pa.concat_tables(tables), path_of(tmp_path, 90))
    last["validation"] |= other["validation"]
    tokens = {"sources": {name: {"validation": {"text_bytes": 100}} for name in ("web", "code")}}
    found = validation(tmp_path, [first, last], tokens)
    assert found["sources"]["web"]["moved"].better
    assert found["sources"]["code"]["moved"].noise
    changes = [row["moved"].change for row in found["sources"].values()]
    assert found["whole"].change == pytest.approx(np.mean(changes))
    assert found["said"] == (
        "Against the untrained model, on the same sequences: bits per byte of held-out text fell beyond noise in web, "
        "did not move beyond noise in code."
    )
    rows = section(tmp_path, [first, last], tokens, None)["sources"]
    assert rows[-1]["moved"] == found["whole"]
    path_of(tmp_path, 0).write_bytes(b"PAR1")
    assert "expected the scores" in validation(tmp_path, [first, last], tokens)["note"]
    path_of(tmp_path, 0).unlink()
    apart = validation(tmp_path, [first, last], tokens)
    assert apart["sources"]["web"]["moved"].noise, "the errors of the means are far larger"
    assert "by the means" in apart["said"]
    assert validation(tmp_path, [first], tokens)["said"] == ""
