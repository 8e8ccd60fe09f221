"""`tamis apply`: stages on a file, with the file's columns plus every score, verdict and reason."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.apply import apply_to_file
from pipeline.cli import app
from pipeline.errors import TamisError

PROSE = " ".join(f"The weather of day {i} was fair and that is what we have to say of it." for i in range(8))


@pytest.fixture
def jsonl(tmp_path):
    rows = [{"id": 1, "text": PROSE}, {"id": 2, "text": "too short"}, {"id": 3, "text": PROSE}, {"id": 4, "text": None}]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    return path


def test_scores_verdicts_and_reasons_stand_beside_each_row(jsonl, tmp_path):
    out = tmp_path / "out.parquet"
    totals = apply_to_file(["gopher_quality/paper", "exact_dedup"], jsonl, out, [])
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [1, 2, 3, 4, None]
    assert totals == {"in": 5, "kept": 1, "dropped": 2, "quarantined": 2}
    assert sorted(rows[i]["verdict"] for i in (0, 2)) == ["dropped", "kept"]
    assert rows[1]["stage"] == "select"
    assert rows[1]["reason"] == "gopher_quality.words_min"
    assert (rows[1]["score"], rows[1]["threshold"]) == (2.0, 50.0)
    assert rows[0]["gopher_quality.words"] == len(PROSE.split())
    assert rows[0]["cluster_id"] == rows[2]["cluster_id"] == rows[0]["canonical_id"] is not None
    assert [row["verdict"] for row in rows[3:]] == ["quarantined", "quarantined"]


def test_html_is_extracted_first_and_parquet_columns_are_kept(tmp_path):
    html = f"<html><body><article><p>{PROSE}</p></article></body></html>"
    table = pa.table({"html": [html, "<p>x</p>"], "label": ["a", "b"], "doc_id": ["mine-1", "mine-2"]})
    pq.write_table(table, tmp_path / "in.parquet")
    apply_to_file(["langid", "pii"], tmp_path / "in.parquet", tmp_path / "out.parquet", [])
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["label"].to_pylist() == ["a", "b"]
    assert out["doc_id"].to_pylist() == ["mine-1", "mine-2"]
    assert len(out["tamis.doc_id"][0].as_py()) == 32
    assert out["langid.language"][0].as_py() == "en"
    assert PROSE[:30] in out["extract.text"][0].as_py()
    assert out["html"].to_pylist()[0] == html


def test_a_parameter_can_be_set_and_a_second_run_gives_the_same_bytes(jsonl, tmp_path):
    out = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in out:
        apply_to_file(["near_dedup"], jsonl, path, ["near_dedup.ngram=3"])
    assert out[0].read_bytes() == out[1].read_bytes()
    rows = pq.read_table(out[0]).to_pylist()
    assert [row["reason"] for row in rows].count("near_duplicate") == 1


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["gofer_quality"], "did you mean 'gopher_quality'"),
        (["train_lm"], "judges documents"),
        (["gopher_quality/none"], "variant"),
    ],
)
def test_errors_name_what_was_expected(jsonl, tmp_path, names, part):
    with pytest.raises(TamisError) as caught:
        apply_to_file(names, jsonl, tmp_path / "out.parquet", [])
    assert part in str(caught.value)


def test_a_file_without_text_or_a_missing_file_is_an_error(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "in.parquet")
    with pytest.raises(TamisError, match="expected a column `text` or `html`, found body"):
        apply_to_file(["langid"], tmp_path / "in.parquet", tmp_path / "out.parquet", [])
    with pytest.raises(TamisError, match="readable"):
        apply_to_file(["langid"], tmp_path / "none.jsonl", tmp_path / "out.parquet", [])


def test_every_command_has_help_with_an_example():
    runner = CliRunner()
    for name in ("run", "plan", "apply", "why", "stages", "sample-crawl", "report"):
        result = runner.invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert "xample" in result.output, name
