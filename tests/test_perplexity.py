"""Language models of a corpus: training in two folds, by language and by reference, and scoring with them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_corpus import FakeCorpus, FakeTools, two_kinds
from hostile import HOSTILE, check_columns, hostile_texts
from language_models import arpa_of
from pydantic import ValidationError

from pipeline.stage import Batch, StageError, stage_types
from stages import kenlm_build
from stages.kenlm_score import load_model, perplexities
from stages.lm_text import LmText, Pieces, train_pieces
from stages.perplexity import LanguageModelFile, PerplexityParams, perplexity
from stages.text_normal import normalisation
from stages.train_lm import TrainLmParams, folds, train_lm

SHARED = Path(__file__).resolve().parents[2] / "shared"
TAMIS = LmText(normalisation("tamis/1"))
needs_lmplz = pytest.mark.skipif(
    kenlm_build.builder("auto") != "lmplz", reason="KenLM's lmplz and build_binary are not on the PATH"
)


def params_of(**changes):
    return TrainLmParams(**{"where": ["kind == good"], "order": 3, "builder": "python", **changes})


@pytest.fixture(
    scope="module",
    params=[("python", "words"), ("python", "sentencepiece"),
            *(pytest.param(("lmplz", units), marks=needs_lmplz) for units in ("words", "sentencepiece"))],
    ids="-".join,
)  # fmt: skip
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    params = params_of(builder=request.param[0], units=request.param[1])
    metrics = train_lm(two_kinds(), params, folder, FakeTools())
    assert (metrics["builder"], metrics["units"]) == request.param
    return folder, metrics, params


def test_training_again_in_another_order_gives_the_same_bytes(trained, tmp_path):
    assert train_lm(two_kinds().reordered(2), trained[2], tmp_path, FakeTools()) == trained[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in trained[0].iterdir())
    for path in trained[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_record(trained):
    record = json.loads((trained[0] / "artifact.json").read_text())
    assert record["normalisation"] == {"name": "tamis/1", "fingerprint": normalisation("tamis/1").fingerprint}
    assert record["order"] == 3
    assert (record["by"], list(record["groups"])) == (None, [""])
    entry = record["groups"][""]
    assert len(entry["percentiles"]) == 101
    assert entry["percentiles"] == sorted(entry["percentiles"])
    assert entry["measured_documents"] == 59
    suffix = ".klm" if record["builder"] == "lmplz" else ".arpa"
    assert [file["name"] for file in entry["files"]] == [f"model-{number}{suffix}" for number in (0, 1)]
    assert (entry["pieces"] is None) == (record["units"] == "words")
    assert trained[1]["documents_found"] == trained[1]["train_documents"] == 59


def test_buckets_follow_the_percentiles_of_unseen_documents(trained):
    corpus = two_kinds()
    out = perplexity(corpus.batch(), PerplexityParams(where=["kind == good"]), FakeTools(trained[0]))
    kinds = np.array(corpus.columns["kind"].to_pylist(), dtype=object)
    buckets = np.array(out["bucket"].to_pylist(), dtype=object)
    assert set(buckets[kinds != "good"]) == {None}
    assert out["score"].null_count == out["bucket"].null_count == int((kinds != "good").sum())
    shares = [np.mean(buckets[kinds == "good"] == name) for name in ("head", "middle", "tail")]
    assert shares == pytest.approx([0.3, 0.3, 0.4], abs=0.03)
    assert out["score"].type == pa.float32()


def test_text_unlike_the_sample_is_tail(trained):
    corpus = two_kinds()
    out = perplexity(corpus.batch(), PerplexityParams(), FakeTools(trained[0]))
    assert set(out["bucket"].to_pylist()[1:118:2]) == {"tail"}  # the bad kind


def test_no_document_is_scored_by_the_model_that_saw_it(trained):
    corpus = two_kinds()
    entry = json.loads((trained[0] / "artifact.json").read_text())["groups"][""]
    models = [load_model(trained[0] / file["name"]) for file in entry["files"]]
    pieces = Pieces((trained[0] / entry["pieces"]["name"]).read_bytes(), "") if entry["pieces"] else None
    fold_numbers = folds(corpus.columns["doc_id"], 7)
    assert 0.3 < fold_numbers.mean() < 0.7
    scores = perplexity(corpus.batch(), PerplexityParams(), FakeTools(trained[0]))["score"].to_pylist()
    for row, number in enumerate(fold_numbers[:30]):
        text, read = corpus.columns["text"].slice(row, 1), LmText(TAMIS.normal, pieces)
        unseen, seen = (perplexities(models[n], read, text, 10**6)[0] for n in (1 - number, number))
        assert scores[row] == unseen
        assert row % 2 or seen < unseen  # the good kind, which the models learned


def test_scores_do_not_depend_on_the_batch(trained):
    batch, params, tools = two_kinds(12).batch(), PerplexityParams(), FakeTools(trained[0])
    whole = perplexity(batch, params, tools)
    parts = [perplexity(batch.take(rows), params, tools) for rows in (np.arange(5), np.arange(5, 24))]
    for name in ("score", "bucket"):
        assert pa.concat_arrays([part[name] for part in parts]).equals(whole[name])


def test_empty_null_and_long_text(trained):
    ids = two_kinds(3).columns["doc_id"]
    texts = pa.array(["", None, "\n\u200b\n", "word " * 100_000, "y" * 100_000, "<s> </s> <unk>"])
    out = perplexity(Batch({"doc_id": ids, "text": texts}, 6), PerplexityParams(max_bytes=2000), FakeTools(trained[0]))
    assert out["score"].is_null().to_pylist() == [True, True, True, False, False, False]
    assert out["bucket"].is_null().to_pylist() == [True, True, True, False, False, False]
    assert np.isfinite(out["score"].to_numpy(zero_copy_only=False)[3:]).all()


def copied(folder, to, **changes):
    shutil.copytree(folder, to)
    record = json.loads((to / "artifact.json").read_text())
    (to / "artifact.json").write_text(json.dumps({**record, **changes}))
    return FakeTools(to)


def test_a_model_refuses_another_normalisation_or_other_bytes(trained, tmp_path):
    batch = two_kinds(2).batch()
    with pytest.raises(StageError, match=r"expected text normalised by tamis/1, .* found `normalisation: ccnet/1`"):
        perplexity(batch, PerplexityParams(normalisation="ccnet/1"), FakeTools(trained[0]))
    tools = copied(trained[0], tmp_path / "a", normalisation={"name": "tamis/1", "fingerprint": "0" * 16})
    with pytest.raises(StageError, match="expected text normalised by tamis/1 0000"):
        perplexity(batch, PerplexityParams(), tools)
    tools = copied(trained[0], tmp_path / "b", normalisation={"name": "tamis/0", "fingerprint": "0" * 16})
    with pytest.raises(StageError, match=r"expected a text normalisation among .*, found 'tamis/0'"):
        perplexity(batch, PerplexityParams(), tools)
    for path in trained[0].iterdir():
        if path.name != "artifact.json":
            tools = copied(trained[0], tmp_path / path.name)
            with (tools.folder / path.name).open("ab") as stream:
                stream.write(b"\n")
            with pytest.raises(StageError, match="expected SHA-256"):
                perplexity(batch, PerplexityParams(), tools)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_model_file_with_its_own_bounds(tmp_path):
    path = arpa_of(tmp_path)
    stated = {"path": str(path), "sha256": sha256(path), "normalisation": "tamis/1"}
    ids = two_kinds(2).columns["doc_id"].slice(0, 3)
    batch = Batch({"doc_id": ids, "text": pa.array(["the cat sat", "the down cat ran a", "nothing of it is known"])}, 3)
    bounded = PerplexityParams(model={**stated, "head_below": 6, "middle_below": 8})
    assert perplexity(batch, bounded, FakeTools())["bucket"].to_pylist() == ["head", "middle", "tail"]
    bare = PerplexityParams(model=stated)
    out = perplexity(batch, bare, FakeTools())
    assert (out["score"].null_count, out["bucket"].null_count) == (0, 3)
    stage = stage_types()["perplexity"]
    assert (len(stage.rules(bounded)), stage.rules(bare), stage.artifacts(bare)) == (1, [], ())
    path.write_bytes(b"no model at all")
    with pytest.raises(StageError, match="expected SHA-256"):
        perplexity(batch, PerplexityParams(model={**stated, "head_below": 1, "middle_below": 1}), FakeTools())
    with pytest.raises(StageError, match="expected an ARPA file or KenLM binary"):
        perplexity(batch, PerplexityParams(model={**stated, "sha256": sha256(path)}), FakeTools())


def test_files_for_each_language_with_pieces(tmp_path):
    path, pieces = arpa_of(tmp_path), tmp_path / "sp.model"
    pieces.write_bytes(train_pieces(["the cat sat the cat"] * 30, 256, "here"))
    words = {"path": str(path), "sha256": sha256(path), "normalisation": "ccnet/1"}
    both = {**words, "pieces": str(pieces), "pieces_sha256": sha256(pieces), "head_below": 9, "middle_below": 9}
    params = PerplexityParams(by="langid.language", model={"en": words, "de": both})
    text = "The cat sat\n the dog"
    columns = {"doc_id": two_kinds(2).columns["doc_id"], "text": pa.array([text] * 4)}
    out = perplexity(Batch({**columns, "langid.language": pa.array(["de", "en", None, "fr"])}, 4), params, FakeTools())
    alone = [LanguageModelFile(**file) for file in (both, words)]
    for row, file in enumerate(alone):
        found = perplexity(Batch(columns, 4), PerplexityParams(model=file), FakeTools())
        assert out["score"][row] == found["score"][row]
        assert out["bucket"][row] == found["bucket"][row]
    assert out["score"].is_null().to_pylist() == [False, False, True, True]
    assert out["bucket"].to_pylist()[1:] == [None] * 3
    assert stage_types()["perplexity"].reads(params) == ("doc_id", "text", "langid.language")


@pytest.mark.parametrize("units", ["words", "sentencepiece"])
def test_a_model_for_each_value_of_a_column(tmp_path, units):
    corpus = two_kinds()
    params = params_of(where=[], by="kind", units=units, reference=["kind in [good, bad]"])
    metrics = train_lm(corpus, params, tmp_path, FakeTools())
    assert (metrics["models"], metrics["without_model"]) == (["bad", "good"], {})
    out = perplexity(corpus.batch(), PerplexityParams(by="kind"), FakeTools(tmp_path))
    assert out["score"].is_null().to_pylist() == [False] * 118 + [True] * 2
    buckets = np.array(out["bucket"].to_pylist(), dtype=object)
    for start in (0, 1):  # each kind has its own percentiles
        shares = [np.mean(buckets[start:118:2] == name) for name in ("head", "middle", "tail")]
        assert shares == pytest.approx([0.3, 0.3, 0.4], abs=0.03)
    one = tmp_path / "one"
    one.mkdir()
    train_lm(corpus, params_of(units=units), one, FakeTools())
    scores = perplexity(corpus.batch(), PerplexityParams(), FakeTools(one))["score"].to_pylist()
    assert scores[0:118:2] == out["score"].to_pylist()[0:118:2]


def test_values_with_few_documents_have_no_model(tmp_path):
    corpus = two_kinds()
    kinds = corpus.columns["kind"].to_pylist()
    columns = {
        **corpus.columns,
        "kind": pa.array(["rare" if row in (3, 5) else kind for row, kind in enumerate(kinds)]),
    }
    metrics = train_lm(FakeCorpus(columns), params_of(where=[], by="kind"), tmp_path, FakeTools())
    assert metrics["without_model"] == {"rare": "found 2 documents"}
    out = perplexity(FakeCorpus(columns).batch(), PerplexityParams(by="kind"), FakeTools(tmp_path))
    assert out["score"].null_count == 4
    with pytest.raises(StageError, match=r"a value of kind with at least 90 documents, found \{'bad': "):
        train_lm(FakeCorpus(columns), params_of(where=[], by="kind", min_docs=90), tmp_path, FakeTools())


def test_both_stages_agree_on_the_column(trained):
    with pytest.raises(StageError, match="expected `by: null`, as they were trained, found `by: kind`"):
        perplexity(two_kinds(2).batch(), PerplexityParams(by="kind"), FakeTools(trained[0]))


def test_percentiles_of_a_named_reference(tmp_path):
    corpus = two_kinds()
    train_lm(corpus, params_of(reference=["kind in [good, bad]"]), tmp_path, FakeTools())
    buckets = np.array(perplexity(corpus.batch(), PerplexityParams(), FakeTools(tmp_path))["bucket"].to_pylist())
    shares = [np.mean(buckets[0:118:2] == name) for name in ("head", "middle", "tail")]
    assert shares == pytest.approx([0.6, 0.4, 0], abs=0.03)  # half of the reference is of the other kind
    with pytest.raises(StageError, match=r"to take percentiles of \(kind == ugly\), found 0; loosen `reference`"):
        train_lm(corpus, params_of(reference=["kind == ugly"]), tmp_path, FakeTools())


def test_hostile_text(trained):
    texts = hostile_texts()
    ids = pa.array([hashlib.md5(str(i).encode()).hexdigest() for i in range(len(texts))])
    out = perplexity(Batch({"doc_id": ids, "text": texts}, len(texts)), PerplexityParams(), FakeTools(trained[0]))
    check_columns(out, len(texts))
    assert [name for name, value in zip([*HOSTILE, None], out["score"].to_pylist(), strict=True) if value is None] == [
        "empty", "space", "newlines", None
    ]  # fmt: skip
    assert out["bucket"].is_null().equals(out["score"].is_null())
    for row in range(0, len(texts), 4):
        batch = Batch({"doc_id": ids.slice(row, 1), "text": texts.slice(row, 1)}, 1)
        assert perplexity(batch, PerplexityParams(), FakeTools(trained[0]))["score"][0] == out["score"][row]


def test_training_on_hostile_text(tmp_path):
    corpus = two_kinds()
    texts = [*HOSTILE.values(), *corpus.columns["text"].to_pylist()]
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(len(texts))]
    hostile = FakeCorpus({"doc_id": pa.array(ids), "text": pa.array(texts)})
    for name, units in (("tamis/1", "words"), ("none/1", "sentencepiece"), ("ccnet/1", "sentencepiece")):
        out = tmp_path / name[:4]
        out.mkdir()
        params = params_of(where=[], normalisation=name, units=units, builder="auto", pure_python_words=10_000)
        train_lm(hostile, params, out, FakeTools())
        check_columns(perplexity(hostile.batch(), PerplexityParams(), FakeTools(out)), len(texts))


def test_declared_columns_and_rule():
    stage = stage_types()["perplexity"]
    assert stage.reads(PerplexityParams(where=["langid.language == en"])) == ("doc_id", "text", "langid.language")
    assert stage.artifacts(PerplexityParams()) == ("train_lm",)
    (rule,) = stage.rules(PerplexityParams())
    assert rule.holds(pa.array(["head", "middle", "tail"])).tolist() == [True, True, False]


def test_too_few_documents_name_the_rule_and_the_counts(tmp_path):
    params = params_of(where=["kind == ugly"])
    with pytest.raises(StageError, match=r"at least 50 documents for `where` \(kind == ugly\), found 0"):
        train_lm(two_kinds(), params, tmp_path, FakeTools())


def test_a_sample_without_words_is_an_error(tmp_path):
    corpus = two_kinds()
    blank = FakeCorpus({**corpus.columns, "text": pa.array([" \n"] * corpus.num_docs)})
    with pytest.raises(StageError, match=r"expected at least 1000 words to learn from, .* found 0 and 0; loosen"):
        train_lm(blank, params_of(), tmp_path, FakeTools())


@pytest.mark.parametrize(
    "change", [{"normalisation": "lower/1"}, {"where": ["x"]}, {"reference": ["x"]}, {"order": 1}, {"units": "bytes"}]
)
def test_wrong_training_parameters_are_refused(change):
    with pytest.raises(ValidationError):
        TrainLmParams(**change)


FILE = {"path": "a.klm", "sha256": "0" * 64, "normalisation": "none/1"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"head_percentile": 70}, "head_percentile <= middle_percentile"),
        ({"model": {"en": FILE}}, "expected `by` with a file for each"),
        ({"model": FILE, "by": "kind"}, "one file without `by`"),
        ({"model": FILE, "normalisation": "none/1"}, "found it outside"),
        ({"model": {**FILE, "head_below": 3}}, "head_below <= middle_below or neither, found 3.0 and None"),
        ({"model": {**FILE, "head_below": 3, "middle_below": 2}}, "head_below <= middle_below"),
        ({"model": {**FILE, "pieces": "sp.model"}}, "both pieces and pieces_sha256"),
        ({"model": {**FILE, "normalisation": "mine"}}, "among tamis/1"),
        ({"model": {"path": "a.klm", "sha256": "0" * 64}}, "normalisation"),
    ],
)
def test_wrong_scoring_parameters_are_refused(params, message):
    with pytest.raises(ValidationError, match=message):
        PerplexityParams(**params)


def test_real_pages_of_another_language_are_tail(tmp_path):
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.is_file():
        pytest.skip(f"no real pages at {path}")
    table = pq.read_table(path, columns=["doc_id", "text", "lang"], filters=[("source", ">=", "langtest:")])
    other = pq.read_table(path, columns=["doc_id", "text", "lang"], filters=[("lang", "in", ["de", "fr"])])
    table = pa.concat_tables([table.slice(0, 300), other.slice(0, 60)]).combine_chunks()
    ids = [hashlib.md5(str(value).encode()).hexdigest() for value in table["doc_id"].to_pylist()]
    columns = {name: table[name].chunk(0) for name in ("text", "lang")}
    corpus = FakeCorpus({"doc_id": pa.array(ids), **columns})
    train_lm(
        corpus, TrainLmParams(where=["lang == en"], builder="python", pure_python_words=30_000), tmp_path, FakeTools()
    )
    out = perplexity(corpus.batch(), PerplexityParams(), FakeTools(tmp_path))
    buckets = np.array(out["bucket"].to_pylist(), dtype=object)
    english = np.array(table["lang"].to_pylist()) == "en"
    assert (buckets[~english] == "tail").mean() > 0.95
    assert (buckets[english] == "tail").mean() == pytest.approx(0.4, abs=0.02)
