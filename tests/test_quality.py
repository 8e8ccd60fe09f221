"""The fastText classifier: sampling by rules, deterministic training, divergence, and the binding to its text form."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from fake_corpus import FakeCorpus, FakeTools, two_kinds
from pydantic import ValidationError

from pipeline.stage import Batch, StageError, stage_types, unit_hash
from stages import quality as quality_stage
from stages import train_classifier as training
from stages.quality import ClassifierFile, QualityParams, quality
from stages.sampling import draw, held_out_split, matches
from stages.text_normal import normalisation
from stages.train_classifier import TrainClassifierParams, train_classifier, train_model

PARAMS = TrainClassifierParams(positives=["kind == good"], negatives=["kind == bad"], bucket=2**12, epoch=25, lr=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    metrics = train_classifier(two_kinds(), PARAMS, folder, FakeTools())
    return folder, metrics


def test_classes_are_balanced_and_measured(trained):
    folder, metrics = trained
    assert sorted(path.name for path in folder.iterdir()) == ["artifact.json", "model.bin"]
    assert metrics["positives_found"] == metrics["negatives_found"] == 59  # the two without a kind are in no class
    assert metrics["train_per_class"] + metrics["held_out_per_class"] == 59
    assert metrics["precision"] == metrics["recall"] == metrics["auc"] == 1.0
    assert [row["threshold"] for row in metrics["keep_rate"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert metrics["keep_rate"][4] == {"threshold": 0.5, "positives_kept": 1.0, "negatives_kept": 0.0}
    record = json.loads((folder / "artifact.json").read_text())
    assert record["normalisation"] == {"name": "lower/1", "fingerprint": normalisation("lower/1").fingerprint}


def test_training_again_in_another_order_gives_the_same_bytes(trained, tmp_path):
    metrics = train_classifier(two_kinds().reordered(3), PARAMS, tmp_path, FakeTools())
    assert metrics == trained[1]
    for name in ("model.bin", "artifact.json"):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()


def test_scores(trained):
    corpus = two_kinds(20)
    scores = quality(corpus.batch(), QualityParams(), FakeTools(trained[0]))["score"]
    assert scores.type == pa.float32()
    values = scores.to_numpy()
    assert (values[0:38:2] > 0.9).all()
    assert (values[1:38:2] < 0.1).all()
    halves = [
        quality(corpus.batch().take(rows), QualityParams(), FakeTools(trained[0]))["score"].to_pylist()
        for rows in (np.arange(17), np.arange(17, 40))
    ]
    assert halves[0] + halves[1] == scores.to_pylist()  # a score does not depend on the batch


def test_text_that_is_empty_null_or_hostile(trained):
    texts = pa.array(
        ["", None, " \x00\n\t", "__label__positive __label__positive", "\u2028a\r\nb\x0bc", "click " * 10_000]
    )
    scores = quality(Batch({"text": texts}, 6), QualityParams(max_bytes=1000), FakeTools(trained[0]))["score"]
    assert scores.null_count == 0
    assert scores.to_pylist()[:3] == [0.0, 0.0, 0.0]
    assert 0 <= min(scores.to_pylist()) <= max(scores.to_pylist()) <= 1


def test_a_page_cannot_label_itself(tmp_path):
    corpus = two_kinds()
    texts = pa.array([f"__label__mine {text}" for text in corpus.columns["text"].to_pylist()])
    train_classifier(FakeCorpus({**corpus.columns, "text": texts}), PARAMS, tmp_path, FakeTools())
    model, _, _ = quality_stage.load_trained(tmp_path)
    assert sorted(model.get_labels()) == ["__label__negative", "__label__positive"]


def test_published_rule_and_artifacts():
    stage = stage_types()["quality"]
    (rule,) = stage.rules(QualityParams(min_score=0.4))
    assert (rule.column, rule.op, rule.value) == ("score", ">=", 0.4)
    assert stage.artifacts(QualityParams()) == ("train_classifier",)
    file = ClassifierFile(path="m.bin", sha256="0" * 64)
    assert stage.artifacts(QualityParams(model=file)) == ()
    params = TrainClassifierParams(positives=["langid.language == en", "words >= 50"], negatives=["host in [b.org]"])
    assert stage_types()["train_classifier"].reads(params) == ("doc_id", "text", "host", "langid.language", "words")


def test_too_few_documents_name_the_rule_and_the_counts(tmp_path):
    params = TrainClassifierParams(positives=["kind == good"], negatives=["kind == ugly"])
    with pytest.raises(StageError, match=r"at least 20 documents for `negatives` \(kind == ugly\), found 0"):
        train_classifier(two_kinds(), params, tmp_path, FakeTools())
    both = TrainClassifierParams(positives=["kind == good"], negatives=["kind != bad"])
    with pytest.raises(StageError, match="found 0 beside 59 that satisfy both"):
        train_classifier(two_kinds(), both, tmp_path, FakeTools())


@pytest.mark.parametrize("change", [{"positives": []}, {"positives": ["good"]}, {"normalisation": "none"}, {"dim": 0}])
def test_wrong_parameters_are_refused(change):
    with pytest.raises(ValidationError):
        TrainClassifierParams(**{"positives": ["a == 1"], "negatives": ["a == 2"], **change})


def test_divergence_lowers_the_rate(tmp_path):
    path = tmp_path / "repetitive.txt"
    repeated = "good " * 1000
    path.write_text(f"__label__positive {repeated}\n__label__negative bad {repeated}\n" * 20)
    params = TrainClassifierParams(positives=["a == 1"], negatives=["a == 2"], lr=20, bucket=2**10)
    model, rate = train_model(path, params, seed=1)
    assert rate < 20
    assert np.isfinite(model.get_word_vector("good")).all()
    with pytest.raises(StageError, match=r"diverged .* rate from 1000000.0 down to 3906"):
        train_model(path, params.model_copy(update={"lr": 1e6}), seed=1)


def test_other_errors_of_fasttext_are_not_retried(tmp_path, monkeypatch):
    calls = []

    def broken(*_args, **_options):
        calls.append(1)
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(training.fasttext, "train_supervised", broken)
    with pytest.raises(RuntimeError, match="cheese"):
        train_model(tmp_path / "x", PARAMS, 1)
    assert len(calls) == 1


def test_a_model_refuses_another_normalisation_or_other_bytes(trained, tmp_path):
    for name in ("model.bin", "artifact.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    record = json.loads((tmp_path / "artifact.json").read_text())
    record["normalisation"]["fingerprint"] = "0" * 16
    (tmp_path / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match=r"expected text normalised by lower/1 0000"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))
    record["normalisation"] = {"name": "lower/0", "fingerprint": "0"}
    (tmp_path / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match="among dclm/1, lower/1, tamis/1, found 'lower/0'"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))
    (tmp_path / "artifact.json").write_bytes((trained[0] / "artifact.json").read_bytes())
    with (tmp_path / "model.bin").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(StageError, match="expected SHA-256"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))


def test_a_model_file_scores_as_the_artifact_does(trained):
    path = trained[0] / "model.bin"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = ClassifierFile(path=str(path), sha256=digest, normalisation="lower/1")
    batch = two_kinds(10).batch()
    params = QualityParams(model=file)
    assert quality(batch, params, FakeTools())["score"].equals(
        quality(batch, QualityParams(), FakeTools(trained[0]))["score"]
    )
    with pytest.raises(StageError, match="expected SHA-256"):
        quality(batch, QualityParams(model=file.model_copy(update={"sha256": "0" * 64})), FakeTools())
    with pytest.raises(StageError, match="expected a label __label__hq"):
        quality(batch, QualityParams(model=file.model_copy(update={"positive": "__label__hq"})), FakeTools())
    other = trained[0] / "artifact.json"
    fake = file.model_copy(update={"path": str(other), "sha256": hashlib.sha256(other.read_bytes()).hexdigest()})
    with pytest.raises(StageError, match="expected a fastText model"):
        quality(batch, QualityParams(model=fake), FakeTools())
    with pytest.raises(StageError, match="expected a model file at"):
        quality(batch, QualityParams(model=file.model_copy(update={"path": "no.bin"})), FakeTools())


def test_draw_takes_the_smallest_hashes_within_the_budget():
    corpus = two_kinds()
    ids, texts = (corpus.columns[name].to_pylist() for name in ("doc_id", "text"))
    hashes = unit_hash(corpus.columns["doc_id"], 7, "salt")
    order = [i for i in np.argsort(hashes) if corpus.columns["kind"][int(i)].as_py() == "good"]
    by_count, _ = draw(corpus, {"x": ["kind == good"]}, 7, "salt", 10, 10**9)
    assert by_count["x"].texts == [texts[i] for i in order[:10]]
    assert by_count["x"].seen == 59
    budget = 1500
    by_size, _ = draw(corpus.reordered(1), {"x": ["kind == good"]}, 7, "salt", 10**6, budget)
    sizes = np.cumsum([len(texts[i]) for i in order])
    assert by_size["x"].texts == [texts[i] for i in order[: int(np.searchsorted(sizes, budget)) + 1]]
    assert len(set(ids)) == len(ids)


def test_null_and_nan_are_in_no_sample():
    batch = Batch({"a": pa.array([1.0, None, float("nan"), 3.0]), "b": pa.array(["x", "x", "x", None])}, 4)
    assert matches(batch, ["a >= 1"]).tolist() == [True, False, False, True]
    assert matches(batch, ["a >= 1", "b == x"]).tolist() == [True, False, False, False]
    assert matches(batch, []).tolist() == [True] * 4


def test_held_out_split_is_exact():
    training_texts, held = held_out_split([str(i) for i in range(10)], 0.25)
    assert (training_texts, held) == ([str(i) for i in range(8)], ["8", "9"])
    assert held_out_split(["a", "b"], 0.01) == (["a"], ["b"])


def test_ranking_quality_counts_ties_half():
    rng = np.random.default_rng(1)
    good, bad = rng.integers(0, 5, 30) / 4, rng.integers(0, 5, 20) / 4
    slow = np.mean([(g > b) + (g == b) / 2 for g in good for b in bad])
    assert training.ranking_quality(good, bad) == pytest.approx(slow)
