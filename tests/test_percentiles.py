"""Percentiles of a reference: equal to numpy's, in any order, with groups and with what is left out."""

import json

import numpy as np
import pyarrow as pa
import pytest
from fake_corpus import FakeCorpus, FakeTools
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.stage import StageError, stage_types
from stages.percentiles import PercentilesParams, percentiles

STEPS = np.arange(101)


def run(folder, corpus, **params):
    metrics = percentiles(corpus, PercentilesParams(**params), folder, FakeTools())
    text = (folder / "percentiles.json").read_text()
    assert "NaN" not in text
    return json.loads(text), metrics


def corpus_of(**columns):
    return FakeCorpus({"text": pa.nulls(len(next(iter(columns.values()))), pa.string()), **columns}, step=37)


def test_equal_to_numpy_by_group(tmp_path):
    rng = np.random.default_rng(4)
    score, words = rng.lognormal(5, 1, 1000).astype(np.float32), rng.integers(0, 500, 1000)
    language = rng.choice(["en", "de", "xx"], 1000, p=[0.7, 0.29, 0.01])
    columns = {"p.score": pa.array(score), "g.words": pa.array(words, pa.int32()), "l.language": pa.array(language)}
    corpus = corpus_of(**columns)
    found, metrics = run(tmp_path, corpus, columns=["p.score", "g.words"], by="l.language")
    assert list(found) == ["p.score", "g.words"]
    for name, values in (("p.score", score.astype(float)), ("g.words", words.astype(float))):
        assert list(found[name]) == ["", "de", "en"]
        for group, row in found[name].items():
            inside = values[language == group] if group else values
            assert row["n"] == len(inside)
            assert row["p"] == np.percentile(inside, STEPS).tolist()
    assert metrics["groups_below_min_docs"] == ["xx"]
    assert (metrics["documents"], metrics["groups"]) == (1000, 2)
    assert metrics["p.score_p50"] == np.median(score.astype(float))
    (tmp_path / "again").mkdir()
    encoded = FakeCorpus({**corpus.columns, "l.language": columns["l.language"].dictionary_encode()}).reordered(2)
    run(tmp_path / "again", encoded, columns=["p.score", "g.words"], by="l.language")
    again = (tmp_path / "again" / "percentiles.json").read_bytes()
    assert again == (tmp_path / "percentiles.json").read_bytes()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=90))
def test_what_is_no_number_is_left_out(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("p")
    there = [v for v in values if v is not None and np.isfinite(v)]
    corpus = corpus_of(**{"a.b": pa.array(values, pa.float64())})
    if not there:
        with pytest.raises(StageError, match=r"at least 1 documents with a.b, found 0"):
            run(folder, corpus, columns=["a.b"], min_docs=1)
        return
    found, _ = run(folder, corpus, columns=["a.b"], min_docs=1)
    assert found == {"a.b": {"": {"n": len(there), "p": np.percentile(there, STEPS).tolist()}}}


def test_where_and_documents_without_a_group(tmp_path):
    corpus = corpus_of(**{
        "a.b": pa.array(np.arange(400.0)),
        "kind": pa.array(["wiki", "web"] * 200),
        "g": pa.array((["x"] * 100 + [None] * 50 + [""] * 50) * 2),
    })  # fmt: skip
    found, metrics = run(tmp_path, corpus, columns=["a.b"], by="g", where=["kind == wiki and a.b < 300"], min_docs=50)
    assert {group: row["n"] for group, row in found["a.b"].items()} == {"": 150, "x": 100}
    assert found["a.b"][""]["p"][100] == 298
    assert metrics["documents"] == 150


def test_errors_name_what_is_wrong(tmp_path):
    corpus = corpus_of(**{"a.b": pa.array(np.arange(20.0)), "a.text": pa.array(["x"] * 20)})
    with pytest.raises(StageError, match=r"at least 100 documents with a.b where a.b > 5, found 14 of 14"):
        run(tmp_path, corpus, columns=["a.b"], where=["a.b > 5"])
    with pytest.raises(StageError, match=r"numeric columns, found a.text of string"):
        run(tmp_path, corpus, columns=["a.text"])
    with pytest.raises(StageError, match=r"column of text in `by`, found a.b"):
        run(tmp_path, corpus, columns=["a.b"], by="a.b", min_docs=1)
    for wrong in ({"columns": []}, {"columns": ["a.b"], "where": ["a.b >= p50"]}):
        with pytest.raises(ValidationError):
            PercentilesParams(**wrong)


def test_what_the_stage_reads():
    params = PercentilesParams(columns=["p.score", "g.words"], by="l.language", where=["kind == wiki", "p.score > 0"])
    assert stage_types()["percentiles"].reads(params) == ("p.score", "g.words", "l.language", "kind")
