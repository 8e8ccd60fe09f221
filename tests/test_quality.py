"""The fastText classifier: drawing by source and rule, deterministic training, measurements, and its text form."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_corpus import FakeCorpus, FakeTools, two_kinds
from hostile import big, check_columns, hostile_texts
from pydantic import ValidationError

from pipeline.stage import Batch, StageError, stage_types, unit_hash
from stages import quality as quality_stage
from stages import train_classifier as training
from stages.classifier_metrics import measure, ranking_quality
from stages.fasttext_text import fingerprint, heads, model_lines
from stages.quality import QualityParams, quality
from stages.sampling import draw, matches, rule_columns
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
    assert metrics["in_both_classes"] == metrics["positives_repeated"] == metrics["same_text_in_both"] == 0
    assert metrics["train_per_class"] + metrics["held_out_per_class"] == 59
    assert metrics["precision"] == metrics["recall"] == metrics["f1"] == metrics["auc"] == 1.0
    half = next(row for row in metrics["keep_rate"] if row["threshold"] == 0.5)
    assert half == {"threshold": 0.5, "kept": 0.5, "precision": 1.0, "recall": 1.0, "negatives_kept": 0.0}
    record = json.loads((folder / "artifact.json").read_text())
    assert record["preprocess"] == {"name": "lower", "fingerprint": fingerprint("lower")}
    assert record["metrics"] == json.loads(json.dumps(metrics))


def test_training_again_in_another_order_gives_the_same_bytes(trained, tmp_path):
    metrics = train_classifier(two_kinds().reordered(3), PARAMS, tmp_path, FakeTools())
    assert metrics == trained[1]
    for name in ("model.bin", "artifact.json"):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()


def test_another_process_writes_the_same_bytes(trained, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from fake_corpus import FakeTools, two_kinds\nfrom test_quality import PARAMS, train_classifier\n"
        "train_classifier(two_kinds().reordered(9), PARAMS, Path(sys.argv[2]), FakeTools())"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)], check=True, timeout=120)
    assert (tmp_path / "model.bin").read_bytes() == (trained[0] / "model.bin").read_bytes()


def test_classes_by_source(trained, tmp_path):
    named = PARAMS.model_copy(
        update={
            "positives": training.DocumentClass(sources=("wiki",), where=("kind == good",)),
            "negatives": training.DocumentClass(sources=("crawl",)),
        }
    )
    assert named.positives.rules == ["source in [wiki]", "kind == good"]
    metrics = train_classifier(two_kinds(), named, tmp_path, FakeTools())
    assert (metrics["positives_found"], metrics["negatives_found"]) == (59, 60)
    by_name = TrainClassifierParams(positives={"sources": ["wiki"]}, negatives={"sources": ["crawl"]})
    assert stage_types()["train_classifier"].reads(by_name) == ("doc_id", "text", "source")


def test_split_by_domain_keeps_sites_apart(tmp_path):
    params = PARAMS.model_copy(update={"split_by": "domain", "held_out": 0.3})
    sides, _ = training._sides(two_kinds(), params, FakeTools())
    lines = model_lines("lower", two_kinds().columns["text"], 10**6)
    site = dict(zip(lines, two_kinds().columns["domain"].to_pylist(), strict=True))
    for name in training.CLASSES:
        train, held = ({site[line] for line in part} for part in sides[name])
        assert train
        assert held
        assert not train & held
    assert len(sides["positives"][0]) == len(sides["negatives"][0])
    assert len(sides["positives"][1]) == len(sides["negatives"][1])
    one = two_kinds()
    corpus = FakeCorpus({**one.columns, "domain": pa.array(["a.example"] * one.num_docs)})
    with pytest.raises(StageError, match=r"several domains .* found one \(a.example\)"):
        train_classifier(corpus, params, tmp_path, FakeTools())


def test_repeated_texts_are_used_once(tmp_path):
    corpus = two_kinds(40)
    texts = corpus.columns["text"].to_pylist()
    texts[2] = texts[4] = texts[0].upper()  # three good ones alike, after lower-casing
    texts[6] = texts[1]  # one text both good and bad
    _, counts = training._sides(FakeCorpus({**corpus.columns, "text": pa.array(texts)}), PARAMS, FakeTools())
    assert (counts["positives_repeated"], counts["same_text_in_both"]) == (2, 1)


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
    assert scores.to_pylist()[:3] == [None, None, None]
    assert 0 <= min(scores.to_pylist()[3:]) <= max(scores.to_pylist()[3:]) <= 1
    texts = hostile_texts()
    out = quality(Batch({"text": texts}, len(texts)), QualityParams(), FakeTools(trained[0]))
    check_columns(out, len(texts))
    one = [quality(Batch({"text": texts.slice(i, 1)}, 1), QualityParams(), FakeTools(trained[0]))["score"][0].as_py()
           for i in range(len(texts))]  # fmt: skip
    assert one == out["score"].to_pylist()


def test_a_document_of_100_mb(trained):
    text = big()
    (score,) = quality(Batch({"text": pa.array([text])}, 1), QualityParams(), FakeTools(trained[0]))["score"]
    (head,) = quality(Batch({"text": pa.array([text[:1_000_000]])}, 1), QualityParams(), FakeTools(trained[0]))["score"]
    assert score.as_py() == head.as_py()


def test_preprocessing_follows_its_definition():
    texts = ["  Two\r\nLines\u2028and\x0bmore\x85\xa0 ", "Caps\ttab", "a</s>b __label__x", "\x1cx\x1e\x1ey"]
    assert model_lines("dclm", pa.array(texts), 100) == [
        "Two Lines and more", "Caps\ttab", "a b __label __x", "x  y",
    ]  # fmt: skip
    assert model_lines("lower", pa.array([*texts[:2], "ẞ İ\u3000x"]), 100) == [
        "two lines and more", "caps tab", "ß i̇ x",
    ]  # fmt: skip
    assert heads(pa.array(["aé", "aéé", None, ""]), 2) == ["a", "a", None, ""]


def test_a_page_cannot_label_itself(tmp_path):
    corpus = two_kinds()
    texts = pa.array([f"__label__mine {text}" for text in corpus.columns["text"].to_pylist()])
    train_classifier(FakeCorpus({**corpus.columns, "text": texts}), PARAMS, tmp_path, FakeTools())
    model, _, _ = quality_stage.load_trained(tmp_path)
    assert sorted(model.labels) == ["__label__negative", "__label__positive"]


def test_published_rule_and_artifacts():
    stage = stage_types()["quality"]
    (rule,) = stage.rules(QualityParams(min_score=0.4))
    assert (rule.column, rule.op, rule.value) == ("score", ">=", 0.4)
    assert stage.artifacts(QualityParams()) == ("train_classifier",)
    file = QualityParams(model="m.bin", label="__label__hq", preprocess="dclm")
    assert stage.artifacts(file) == ()
    params = TrainClassifierParams(positives=["langid.language == en", "words >= 50"], negatives=["host in [b.org]"])
    assert stage_types()["train_classifier"].reads(params) == (
        "doc_id", "text", "source", "host", "langid.language", "words",
    )  # fmt: skip


def test_too_few_documents_name_the_rule_and_the_counts(tmp_path):
    params = TrainClassifierParams(positives=["kind == good"], negatives=["kind == ugly"])
    with pytest.raises(StageError, match=r"at least 20 .* `negatives` \(kind == ugly\), found 0 .*crawl \(60\), wiki"):
        train_classifier(two_kinds(), params, tmp_path, FakeTools())
    both = TrainClassifierParams(positives=["kind == good"], negatives=["kind != bad"])
    with pytest.raises(StageError, match=r"found 0 .* beside 59 that satisfy both"):
        train_classifier(two_kinds(), both, tmp_path, FakeTools())


@pytest.mark.parametrize(
    "change",
    [
        {"positives": []},
        {"positives": ["good"]},
        {"preprocess": "none"},
        {"dim": 0},
        {"positives": ["a >= p60"]},
        {"positives": ["a == 2"]},
        {"positives": {"sources": ["x"]}, "negatives": {"sources": ["x", "y"]}},
    ],
)
def test_wrong_parameters_are_refused(change):
    with pytest.raises(ValidationError):
        TrainClassifierParams(**{"positives": ["a == 1"], "negatives": ["a == 2"], **change})


@pytest.mark.parametrize(
    "given",
    [
        {"model": "m.bin"},
        {"model": "m.bin", "label": "x"},
        {"model": "stage", "label": "x"},
        {"sha256": "0" * 64},
    ],
)
def test_a_file_needs_its_label_and_text_form(given):
    with pytest.raises(ValidationError):
        QualityParams(**given)


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


def test_a_model_refuses_another_text_form_or_other_bytes(trained, tmp_path):
    for name in ("model.bin", "artifact.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    record = json.loads((tmp_path / "artifact.json").read_text())
    record["preprocess"]["fingerprint"] = "lower/0"
    (tmp_path / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match=r"expected text preprocessed by lower/0"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))
    record["preprocess"] = {"name": "other", "fingerprint": "0"}
    (tmp_path / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match="among lower, dclm, found 'other'"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))
    (tmp_path / "artifact.json").write_bytes((trained[0] / "artifact.json").read_bytes())
    with (tmp_path / "model.bin").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(StageError, match="expected SHA-256"):
        quality(two_kinds(5).batch(), QualityParams(), FakeTools(tmp_path))


def test_a_model_file_scores_as_the_artifact_does(trained):
    path = trained[0] / "model.bin"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = {"model": str(path), "label": "__label__positive", "preprocess": "lower"}
    batch = two_kinds(10).batch()
    expected = quality(batch, QualityParams(), FakeTools(trained[0]))["score"]
    for pin in ({}, {"sha256": digest}):
        assert quality(batch, QualityParams(**file, **pin), FakeTools())["score"].equals(expected)
    assert stage_types()["quality"].identity(QualityParams(**file)) == digest
    for change, message in (
        ({"sha256": "0" * 64}, "expected SHA-256"),
        ({"label": "__label__hq"}, "expected a label __label__hq"),
        ({"model": str(trained[0] / "artifact.json")}, "expected a fastText classifier with the number"),
        ({"model": "no.bin"}, "expected a fastText model file at"),
    ):
        with pytest.raises(StageError, match=message):
            quality(batch, QualityParams(**{**file, **change}), FakeTools())


def test_dclm_score_is_what_its_code_computes(trained):
    """Its scorer asks for one label only and turns the probability round where that is the other one."""
    import fasttext

    model = fasttext.load_model(str(trained[0] / "model.bin"))
    texts = ["The Model reads\nand learns. ", "\n Buy cheap!\r\nclick  now", "what people write, sale today"]
    expected = []
    for text in texts:
        (label,), (probability,) = model.predict(" ".join(text.strip().splitlines()))
        expected.append(probability if label == "__label__positive" else 1 - probability)
    params = QualityParams(model=str(trained[0] / "model.bin"), label="__label__positive", preprocess="dclm")
    found = quality(Batch({"text": pa.array(texts)}, 3), params, FakeTools())["score"]
    np.testing.assert_allclose(found.to_numpy(), expected, atol=3e-5)


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


def test_rules_of_a_sample_may_be_joined():
    batch = Batch({"a": pa.array([1.0, None, 3.0]), "b": pa.array(["x", "x", "y"])}, 3)
    assert matches(batch, ["a >= 2 or b == x"]).tolist() == [True, True, True]
    assert matches(batch, ["not a >= 2"]).tolist() == [True, False, False]
    assert rule_columns(["a >= 2 or b == x"], ["c in [1]"]) == ("a", "b", "c")


def test_held_out_part_ends_between_groups():
    assert training._cut([str(i) for i in range(10)], 0.25) == 8
    assert training._cut(["a", "b"], 0.01) == 1
    assert training._cut(["a", "a", "a", "b", "b"], 0.2) == 3
    assert training._cut(["a", "a"], 0.5) == 0


def test_ranking_quality_counts_ties_half():
    rng = np.random.default_rng(1)
    good, bad = rng.integers(0, 5, 30) / 4, rng.integers(0, 5, 20) / 4
    slow = np.mean([(g > b) + (g == b) / 2 for g in good for b in bad])
    assert ranking_quality(good, bad) == pytest.approx(slow)


def test_measurements_equal_those_of_scikit_learn():
    from sklearn import metrics as sk

    rng = np.random.default_rng(2)
    good, bad = rng.beta(3, 2, 400), rng.beta(2, 3, 400)
    found = measure(good, bad)
    scores, truth = np.concatenate([good, bad]), np.repeat([1, 0], 400)
    for name, value in (
        ("auc", sk.roc_auc_score(truth, scores)), ("brier", sk.brier_score_loss(truth, scores)),
        ("precision", sk.precision_score(truth, scores >= 0.5)), ("recall", sk.recall_score(truth, scores >= 0.5)),
        ("f1", sk.f1_score(truth, scores >= 0.5)),
    ):  # fmt: skip
        assert found[name] == pytest.approx(value, abs=1e-4), name
    bins = [(scores >= i / 10) & (scores < (i + 1) / 10) for i in range(10)]
    slow = sum(b.sum() / 800 * abs(scores[b].mean() - truth[b].mean()) for b in bins if b.any())
    assert found["ece"] == pytest.approx(slow, abs=1e-4)
    assert sum(row["count"] for row in found["reliability"]) == 800
    kept = [row["kept"] for row in found["keep_rate"]]
    assert kept == sorted(kept, reverse=True)


def test_measurements_of_nothing_kept_are_null():
    found = measure(np.array([0.1, 0.2]), np.array([0.3]))
    assert (found["precision"], found["recall"], found["f1"]) == (None, 0.0, 0.0)
