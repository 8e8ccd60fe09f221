"""What language models read: named normalisations by golden vectors and slow versions, SentencePiece pieces."""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hostile import big, check_columns, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import slow_words

from pipeline.stage import StageError
from stages import lm_text, text_normal, text_public
from stages.lm_text import LmText, Pieces, train_pieces
from stages.text_normal import normalisation

PUBLIC = ("ccnet/1", "edugp/1", "datatrove/1")
CHARS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(" ab .,…-\n\t漢é\u0301\u00ad１٣7Σσ—．»<s>/unk|\x00\x85\u3000"),
)
TEXTS = st.text(CHARS, max_size=60)


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
def test_golden_vectors_of_tamis(text, expected):
    assert fold("tamis/1", text) == [expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none/1", "« Crème », 12,5 １\nＡ—B… (s)"),
        ("ccnet/1", '" creme ", 00,0 0ａ - b...(s)'),  # lines and tabs glue; the full-width 1 is a digit first
        ("edugp/1", '" Crème ", 00,0 0Ａ - B...(s)'),
        ("datatrove/1", '" creme ", 0 0ａ - b...(s)'),
    ],
)
def test_golden_vectors_of_the_others(name, expected):
    assert fold(name, " « Crème », 12,5 １\n\x07\nＡ—B…\t<s>", "", None, " \n\x00") == [expected, "", "", ""]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5), st.integers(0, 3))
def test_tamis_equals_the_slow_version(texts, skip):
    array = pa.array(texts, pa.string()).slice(skip)
    folded, counts = normalisation("tamis/1")(array)
    folded.validate(full=True)
    for text, found, (words, lines) in zip(texts[skip:], folded.to_pylist(), counts.tolist(), strict=True):
        expected = slow_words(text or "")
        assert found == "\n".join(" ".join(line) for line in expected)
        assert (words, lines) == (sum(map(len, expected)), len(expected))


def slow_public(name, text):
    """One step after the other, as each project's code has them."""
    marks = {char: mark for mark, chars in text_public._MARKS.items() for char in chars}
    text = text if name == "datatrove/1" else text.strip()
    if name != "edugp/1":
        text = text.lower()
    if name == "datatrove/1":
        text = re.sub(r"\d+([.,،٫⎖⎗⎘]\d+)?", "0", text)
    if name != "edugp/1":
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    if name != "datatrove/1":
        text = re.sub(r"\d", "0", text)
    text = text.strip() if name == "datatrove/1" else text
    text = "".join(marks.get(c, c) for c in text)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", text)
    return re.sub("<(/?s|unk)>", r"(\1)", re.sub(" +", " ", text).strip(" "))


@pytest.mark.parametrize("name", PUBLIC)
@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5), st.integers(0, 3))
def test_public_definitions_equal_the_slow_version(name, texts, skip):
    folded, counts = normalisation(name)(pa.array(texts, pa.string()).slice(skip))
    for text, found, (words, lines) in zip(texts[skip:], folded.to_pylist(), counts.tolist(), strict=True):
        assert found == slow_public(name, text or "")
        assert (words, lines) == (len(found.split(" ")) if found else 0, bool(found))


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_none_changes_white_space_alone(text):
    expected = [re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line).split() for line in text.split("\n")]
    expected = "\n".join(" ".join(line) for line in expected if line)
    assert fold("none/1", text) == [re.sub("<(/?s|unk)>", r"(\1)", expected)]


@pytest.mark.parametrize("name", text_normal.NAMES)
@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 40))
def test_a_cap_never_cuts_a_character(name, text, cap):
    (found,) = fold(name, text, max_bytes=cap)
    assert fold(name, text.encode()[:cap].decode(errors="ignore")) == [found]


def test_fingerprints_tell_normalisations_apart():
    prints = [normalisation(name).fingerprint for name in text_normal.NAMES]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in prints)
    with pytest.raises(ValueError, match=r"among tamis/1, none/1, ccnet/1, .*, found 'ccnet'"):
        normalisation("ccnet")


WORDS = [
    "the",
    "a",
    "model",
    "of",
    "language",
    "that",
    "reads",
    "is",
    "trained",
    "on",
    "careful",
    "sentences",
    "learns",
]


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(3)
    return train_pieces([" ".join(rng.choice(WORDS, 12)) for _ in range(300)], 300, "here")


def test_pieces_are_the_same_bytes_every_time(model):
    rng = np.random.default_rng(3)
    assert train_pieces([" ".join(rng.choice(WORDS, 12)) for _ in range(300)], 300, "here") == model


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text("abe漢éth", min_size=1, max_size=9)), min_size=1, max_size=9))
def test_pieces_of_words_are_those_of_the_line(model, words):
    pieces = Pieces(model, "here")
    assert pieces.by_word
    line = " ".join(words)
    found, whole = pieces.line(line.encode()).decode().split(" "), pieces.processor.encode(line, out_type=str)
    assert "".join(found) == "".join(whole)
    if len(found) == len(whole):  # else a tie, or unknown characters of two words in one piece
        assert sum(map(pieces.processor.get_score, map(pieces.processor.piece_to_id, found))) == pytest.approx(
            sum(map(pieces.processor.get_score, map(pieces.processor.piece_to_id, whole))), abs=1e-3
        )


def test_pieces_of_documents(model):
    text = LmText(normalisation("tamis/1"), Pieces(model, "here"))
    docs, counts = text(pa.array(["The language\n\nreads", "", None, "漢字 x\n"]), 10**6)
    assert docs[0].decode().split("\n") == ["▁the ▁language", "▁reads"]
    assert counts[:3].tolist() == [[3, 2], [0, 0], [0, 0]]
    for doc, (units, lines) in zip(docs, counts.tolist(), strict=True):
        assert (units, lines) == (len(doc.split()), len(doc.splitlines()))


def test_a_model_that_reads_whole_lines_does(model, monkeypatch):
    pieces = Pieces(model, "here")
    pieces.by_word = False
    line = b"the model reads"
    assert pieces.line(line) == Pieces(model, "here").line(line)
    assert not pieces


def test_the_table_of_words_has_an_end(model, monkeypatch):
    monkeypatch.setattr(lm_text, "KEPT_WORDS", 3)
    pieces = Pieces(model, "here")
    line = " ".join(WORDS).encode()
    assert pieces.line(line) == Pieces(model, "there").line(line)
    assert len(pieces) <= 3
    pieces.line(b"y" * 100)
    assert b"y" * 100 not in pieces


def test_text_cannot_forge_the_symbols_of_the_model(model):
    pieces = Pieces(model, "here")
    pieces.processor = type("Fake", (), {"encode": lambda *_a, **_k: ["<s>", "</s>", "<unk>", "x"]})()
    assert pieces.line(b"anything") == b"(s) (/s) (unk) x"


@pytest.mark.parametrize("data", [b"", b"no model", b"\x0a\xff\xff\xff\xff"])
def test_what_is_no_sentencepiece_model(data):
    with pytest.raises(StageError, match="model m: expected a SentencePiece model, found none"):
        Pieces(data, "m")


def test_no_text_for_pieces():
    with pytest.raises(StageError, match="there: SentencePiece found no model"):
        train_pieces([], 300, "there")


@pytest.mark.parametrize("name", text_normal.NAMES)
def test_hostile_text(name, model):
    for pieces in (None, Pieces(model, "here")):
        text = LmText(normalisation(name), pieces)
        docs, counts = text(hostile_texts(), 10**6)
        check_columns({"units": pa.array(counts[:, 0])}, len(docs))
        for row in range(0, len(docs), 3):
            assert text(hostile_texts().slice(row, 1), 10**6)[0] == [docs[row]]
        for doc in docs:
            assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|<s>|</s>|<unk>", doc)


def test_a_document_of_100_mb_is_read_up_to_the_cap(model):
    text = LmText(normalisation("ccnet/1"), Pieces(model, "here"))
    (doc,), _ = text(pa.array([big()]), 10**6)
    assert text(pa.array([big(10**6)]), 10**8)[0] == [doc]
