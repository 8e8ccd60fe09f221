"""Scores of the compiled fastText loops against the library itself, for each loss and kind of file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.assets import wheel_file
from stages.fasttext_model import FastTextModel
from stages.langid import LID_176

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXTS = [
    "one two three",
    "uno due",
    "tre one x y z",
    "É ü été, naïve 日本語 one",
    "",
    "   ",
    "due " * 300,
    "\t\x0buno\r two\0six",
]
WORDS = {"a": ["one", "two", "three", "four", "étés"], "b": ["uno", "due", "tre", "日本語"], "c": ["ένα", "δύο", "one"]}


@pytest.fixture(scope="module", params=[
    {"loss": "softmax"}, {"loss": "hs"}, {"loss": "ova"}, {"loss": "ns"},
    {"loss": "softmax", "minn": 1, "maxn": 4}, {"loss": "hs", "minn": 2, "maxn": 3, "wordNgrams": 3, "dim": 70},
    {"loss": "softmax", "wordNgrams": 2, "quantize": {}},
    {"loss": "hs", "minn": 2, "maxn": 4, "quantize": {"cutoff": 300, "qnorm": True}},
    {"loss": "softmax", "wordNgrams": 2, "quantize": {"cutoff": 260, "dsub": 3}},
])  # fmt: skip
def pair(request, tmp_path_factory):
    """(the library's model, ours) of one file."""
    import fasttext

    folder = tmp_path_factory.mktemp("model")
    options = {"dim": 10, "bucket": 500, "wordNgrams": 1, **request.param}
    quantize = options.pop("quantize", None)
    rng = np.random.default_rng(8)
    lines = [f"__label__{k} {' '.join(rng.choice(v, 6))}\n" for _ in range(80) for k, v in WORDS.items()]
    (folder / "train.txt").write_text("".join(lines), "utf-8")
    model = fasttext.train_supervised(str(folder / "train.txt"), epoch=8, lr=0.5, thread=1, verbose=0, **options)
    if quantize is not None:
        model.quantize(str(folder / "train.txt"), retrain=False, **quantize)
    model.save_model(str(folder / "model"))
    return fasttext.load_model(str(folder / "model")), FastTextModel(folder / "model")


def expected(model, texts, labels):
    """float[n, labels] of the library; what it leaves out is below its 1e-5."""
    found = np.full((len(texts), len(labels)), 1e-5)
    for row, (names, values) in enumerate(zip(*model.predict(texts, k=-1), strict=True)):
        for name, value in zip(names, values, strict=True):
            found[row, labels.index(name)] = min(value, 1.0)
    return found


def test_scores_equal_those_of_the_library(pair):
    library, ours = pair
    texts = [*TEXTS, *(text.replace("\n", " ") for text in HOSTILE.values())]
    scores, words = ours.scores(pa.array(texts), 10**6)
    np.testing.assert_allclose(scores, expected(library, texts, ours.labels), atol=2e-5)
    fields = [text.replace("\0", " ") for text in texts]
    for separator in "\t\v\f\r\n":
        fields = [field.replace(separator, " ") for field in fields]
    assert words.tolist() == [sum(map(bool, field.split(" "))) for field in fields]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.sampled_from("one two\u00e9日本δ\t,x"), max_size=30), min_size=1, max_size=5))
def test_any_text_scores_as_in_the_library_and_as_alone(pair, texts):
    library, ours = pair
    scores, _ = ours.scores(pa.array(texts), 10**6)
    np.testing.assert_allclose(scores, expected(library, texts, ours.labels), atol=2e-5)
    for row, text in enumerate(texts):
        assert (ours.scores(pa.array([text]), 10**6)[0][0] == scores[row]).all()  # bit for bit


def test_what_is_remembered_changes_nothing(pair):
    path_model, (_, ours) = pair[0], pair
    texts = pa.array([f"one two word{i} naïve{i}" for i in range(500)] * 2)
    scores, _ = ours.scores(texts, 10**6)
    assert (scores[:500] == scores[500:]).all()
    ours._memory = type(ours._memory)()
    assert (ours.scores(texts, 10**6)[0] == scores).all()
    assert path_model is not None


def test_best_labels_are_in_order(pair):
    _, ours = pair
    texts = pa.array(TEXTS)
    scores, _ = ours.scores(texts, 10**6)
    for count in (1, 2, 3, 9):
        chosen, best = ours.best(texts, 10**6, count)
        assert best.shape == (len(TEXTS), min(count, 3))
        assert (best == -np.sort(-scores, axis=1)[:, :count]).all()
        assert (np.take_along_axis(scores, chosen, 1) == best).all()


def test_marks_of_fasttext_are_words_that_are_not_read(pair):
    _, ours = pair
    plain = ours.scores(pa.array(["one due two"]), 100)[0]
    marked = ours.scores(pa.array(["one </s> __label__a due\n__label__zz two"]), 100)[0]
    assert (plain == marked).all()


def test_cut_at_a_character(pair):
    _, ours = pair
    whole = ours.scores(pa.array(["one é", "one ", "one"]), 5)[0]
    assert (whole[0] == whole[1]).all()
    sliced = pa.array(["x", "one é", None, "two"]).slice(1)
    assert (ours.scores(sliced, 5)[0][0] == whole[0]).all()


def test_lid_176_on_real_text():
    path = SHARED / "data/langid/langid_gold.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import fasttext

    texts = pq.read_table(path, columns=["text"])["text"].to_pylist()[::40]
    file = wheel_file(*LID_176)
    ours, library = FastTextModel(file), fasttext.load_model(str(file))
    chosen, scores = ours.best(pa.array(texts), 10**6, 1)
    names, values = library.predict(texts, k=1)
    assert [ours.labels[k] for k in chosen[:, 0]] == [name for (name,) in names]
    np.testing.assert_allclose(scores[:, 0], np.minimum(np.concatenate(values), 1), atol=1e-5)
