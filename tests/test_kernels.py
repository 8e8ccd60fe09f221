"""The shared text kernels agree with Python's own str methods, on any Unicode and on sliced or null arrays."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch
from stages.kernels import c4_clean, chars, ngrams, words

# letters, marks and digits of several scripts, every kind of space and line end, and what filters look for
SPECIAL = st.sampled_from("ab. \n\r\t\v\x1c\x85\u2028\u00a0\u3000é中İK٣²Ǆ\U0001d7d8😀\u200b_")
EXOTIC = st.text(st.one_of(SPECIAL, st.characters(exclude_categories=["Cs"])), max_size=60)


def test_class_tables_agree_with_python_for_every_code_point():
    pages, classes = chars.tables()
    points = np.arange(0x110000)
    bits = classes[(pages[points >> 8].astype(np.int64) << 8) | (points & 255)]
    every = [chr(point) for point in range(0x110000)]
    for bit, expected in (
        (chars.NONSPACE, [not c.isspace() for c in every]),
        (chars.ALPHA, [c.isalpha() for c in every]),
        (chars.DECIMAL, [c.isdecimal() for c in every]),
        (chars.WORD, [c.isalnum() or c == "_" for c in every]),
        (chars.LINE, [len((c + "x").splitlines()) > 1 for c in every]),
    ):
        assert np.array_equal((bits & bit) != 0, expected)


def items(array: pa.Array, spans: words.Spans) -> list[list[str]]:
    _, data = words.buffers(array)
    raw = data.tobytes()
    cut = [raw[a:b].decode() for a, b in zip(spans.starts, spans.ends, strict=True)]
    return [cut[a:b] for a, b in zip(spans.doc_offsets[:-1], spans.doc_offsets[1:], strict=True)]


@settings(max_examples=300, deadline=None)
@given(st.lists(EXOTIC, max_size=6), st.data())
def test_words_and_lines_are_those_of_str(texts, data):
    skip = data.draw(st.integers(0, len(texts)))
    array = pa.array(texts, pa.string()).slice(skip)
    found = words.spans(array)
    flat = [word for text in texts[skip:] for word in text.split()]
    assert items(array, found) == [text.split() for text in texts[skip:]]
    assert found.lengths.tolist() == [len(word) for word in flat]
    assert ((found.bits & chars.ALPHA) != 0).tolist() == [any(c.isalpha() for c in word) for word in flat]
    assert items(array, words.spans(array, chars.WORD)) == [re.findall(r"\w+", text) for text in texts[skip:]]
    assert items(array, words.lines(array)) == [text.split("\n") for text in texts[skip:]]


@settings(max_examples=200, deadline=None)
@given(EXOTIC)
def test_strip_and_length_are_those_of_str(text):
    raw = np.frombuffer(text.encode() + b"!", np.uint8)
    start, end = chars.strip(raw, 0, len(raw) - 1, *chars.tables())
    assert raw[start:end].tobytes().decode() == text.strip()
    assert chars.length(raw, 0, len(raw) - 1) == len(text)


def test_decode_never_reads_past_the_end():
    for tail in (b"\xc3", b"\xe2\x80", b"\xf0\x9f\x98"):
        assert chars.decode(np.frombuffer(tail, np.uint8), 0, len(tail)) == (0xFFFD, 1)


def test_buffers_of_null_empty_sliced_large_and_chunked_arrays():
    array = pa.array(["zero", None, "", "two é"]).slice(1)
    assert items(array, words.spans(array)) == [[], [], ["two", "é"]]
    assert items(pa.array([], pa.string()), words.spans(pa.array([], pa.string()))) == []
    assert len(words.buffers(pa.array([None, None], pa.string()))[0]) == 3
    for other in (pa.array(["a b"], pa.large_string()), pa.chunked_array([["a b"]]), pa.array([b"a b"])):
        assert words.spans(other).ends.tolist() == [1, 3]
    with pytest.raises(TypeError, match="expected a string or binary array, found int64"):
        words.buffers(pa.array([1]))


def test_filters_share_the_spans_of_a_batch():
    batch = Batch({"text": pa.array(["a b"])}, 1)
    assert words.of(batch) is words.of(batch)
    assert words.lines_of(batch) is words.lines_of(batch)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "é"]), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_numbered_ngrams_are_exact_whatever_the_seed(tokens, seed):
    array = pa.array([" ".join(tokens)])
    found = words.spans(array)
    _, data = words.buffers(array)
    total = len(tokens)
    size = ngrams.capacity(total)
    table, keys = np.empty(size, np.int32), np.empty(size, np.uint64)
    numbers, first, counts = (np.empty(total, np.int32) for _ in range(3))
    distinct = ngrams.intern(data, found.starts, found.ends, 0, total, np.uint64(seed), table, numbers, first, counts)
    seen = list(dict.fromkeys(tokens))
    assert distinct == len(seen)
    assert numbers.tolist() == [seen.index(token) for token in tokens]
    assert counts[:distinct].tolist() == [tokens.count(token) for token in seen]
    ids, repeated = numbers.copy(), counts[numbers] > 1
    for n in range(2, min(total, 6) + 1):
        ngrams.extend(n, total, numbers, ids, repeated, np.uint64(seed), keys, table, counts)
        grams = [tuple(tokens[i : i + n]) for i in range(total - n + 1)]
        often = Counter(grams)
        assert repeated[: len(grams)].tolist() == [often[gram] > 1 for gram in grams]
        assert all(counts[ids[i]] == often[gram] for i, gram in enumerate(grams) if often[gram] > 1)


def slow_sentences(line: str) -> int:
    sentences, rest = 0, 0
    for found in re.finditer(r"""[.?!][.?!"')\]”’»]*""", line):
        following = line[found.end() :]
        initial = found[0] == "." and re.search(r"(?<!\w)[^\W\d_]$", line[: found.start()])
        if not following or (following[0].isspace() and not initial):
            sentences, rest = sentences + 1, found.end()
    return sentences + (line[rest:].strip() != "")


def sentences_of(line: str) -> int:
    raw = np.frombuffer(line.encode() + b" ", np.uint8)
    return c4_clean.count_sentences(raw, 0, len(raw) - 1, *chars.tables())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["A", "é", "b.", "c", ".", "?", "!", '"', "”", ")", " ", "\u3000", "_", "word"])))
def test_sentences_equal_the_slow_definition(pieces):
    line = "".join(pieces)
    assert sentences_of(line) == slow_sentences(line)


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("", 0),
        ("One. Two! Three?", 3),
        ("Is it 3.5 or so? Yes...", 2),
        ('He said "stop." Then he left.', 2),
        ("at 3 p.m. on 5.5.2005.", 1),
        ("J. Smith met K. Jones.", 1),
        ("no mark at the end", 1),
        ("First. second part", 2),
        ("a.b.c is a path.to(it).", 1),
        ("Wait!? What?!", 2),
    ],
)
def test_count_sentences(line, sentences):
    assert sentences_of(line) == slow_sentences(line) == sentences
