"""The `datatrove` variants decide as the installed datatrove does, on a sample of crawled pages.

datatrove runs in a Python of its own: `TAMIS_PEERS_PYTHON`, else the environment that `make peers` makes. On all
10,187 pages of the crawl datatrove 0.10.1 and the variants agree on every decision of the five filters
(`benchmarks/bench_heuristics.py` counts again). Where they can still differ:

- an empty text: its ratios are null and break no rule, so `gopher_repetition` and `fineweb` keep it, where
  datatrove drops it as "empty"; extraction drops it before either sees it;
- a word over 1,000 characters is cut for the tokenizer (11 of the pages have one): a token more for each cut;
- a special case of spaCy that overlaps another one with a space in it, as in "= [=](x" (one page has such a pair).
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_heuristics_slow import english, spacy_sentences, spacy_words

from benchmarks import bench_heuristics
from benchmarks.common import DATA, PEERS
from stages.kernels import english_tokens, token_memo, tokens, words

AGREE = 0.999
FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('datatrove') is None)"


def peers_have_datatrove() -> bool:
    python = Path(os.environ.get("TAMIS_PEERS_PYTHON", PEERS))
    return python.exists() and subprocess.run([python, "-c", FIND], capture_output=True).returncode == 0


def test_decisions_on_crawled_pages():
    if not (DATA / "crawl").exists():
        pytest.skip(f"{DATA / 'crawl'} is not here")
    if not peers_have_datatrove():
        pytest.skip("no Python with datatrove: set TAMIS_PEERS_PYTHON or run `make peers`")
    texts = bench_heuristics.crawl_texts(limit=80)  # the records of the crawl are shuffled
    found = bench_heuristics.differences(texts, list(bench_heuristics.FILTERS))
    for name, rows in found.items():
        assert 1 - len(rows) / len(texts) >= AGREE, (name, rows)


def tokens_of(texts: list[str]) -> list[list[str]]:
    array = pa.array(texts, pa.string())
    found = tokens.spans(array)
    raw = words.buffers(array)[1].tobytes()
    cut = [raw[a:b].decode() for a, b in zip(found.starts, found.ends, strict=True)]
    assert found.lengths.tolist() == [len(token) for token in cut]
    return [cut[a:b] for a, b in zip(found.doc_offsets[:-1], found.doc_offsets[1:], strict=True)]


PIECES = st.sampled_from(
    [*"abzAZé中한Я09.,;:!?)(]['\"-_/+%$€#&°©", " ", "\n", "\u00a0", "’s", "'s", "...", "…", "can't", "Im", "cant",
     "Mr.", "e.g.", "U.S.", ":)", "xD", "10km", "5pm", "http://a.com/b?c=d", "a@b.co", "A.", "AB.", "aB.", "(id)", "😀"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=3))
def test_tokens_are_those_of_spacy(texts):
    assert tokens_of(texts) == [spacy_words(text) for text in texts]


def test_letters_and_digits_of_every_script_with_marks_around_them_are_those_of_spacy():
    """What the memo splits by itself, for each letter there is."""
    letters = [chr(point) for point in range(0x110000) if chr(point).isalpha() or chr(point).isdecimal()]
    every = [form for k, char in enumerate(letters) for form in (f"{char}{char}", f"a{char}", f"{char}a,")[k % 3 :][:1]]
    marks = ["(", "[", '"', ""], [*",;:!?)]\"'.", ""]
    chooser = random.Random(7)
    cases = [case for case in english().tokenizer.rules if case.isalpha()]
    for core in [*chooser.sample(letters, 300), *cases, "ab", "AB", "aB", "Ab", "A", "7", "42"]:
        every.append(chooser.choice(marks[0]) + core + chooser.choice(marks[1]))
    tokens.forget()
    expected = [[token.text for token in english().tokenizer(word)] for word in every[-1000:]]
    assert tokens_of(every[-1000:]) == expected
    joined = "\n".join(every)
    assert tokens_of([joined]) == [[t.text for t in english().tokenizer(joined) if t.text.strip()]]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab", ".", "!", "?", "…", '"', ")", "。", " ", "  ", "\u3000", "Mr.", "J."]), max_size=25
    )
)
def test_sentences_are_those_of_spacy(pieces):
    line = "".join(pieces)
    assert tokens.count_sentences(pa.array([line, f"{line}\n\n{line}"])).tolist() == [
        spacy_sentences(line),
        2 * spacy_sentences(line),
    ]


def test_a_full_memo_starts_anew_with_the_same_tokens(monkeypatch):
    texts = ["(one) two-three can't " + " ".join(f"w{k}x{k % 7},y" for k in range(start, start + 3000))
             for start in (0, 2000)]  # fmt: skip
    expected = tokens_of(texts)
    monkeypatch.setattr(token_memo, "MEMO_WORDS", 2048)
    monkeypatch.setattr(token_memo, "NEW_BYTES", 1000)
    tokens.forget()
    try:
        assert tokens_of(texts) == expected
        assert tokens._memo().size <= 2048
    finally:
        tokens.forget()


def test_an_error_of_the_tokenizer_leaves_no_word_without_tokens(monkeypatch):
    tokens.forget()
    assert tokens_of(["well-known"]) == [["well", "-", "known"]]
    with monkeypatch.context() as patched:
        patched.setattr(english_tokens, "split", lambda joined: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tokens_of(["never-seen"])
    assert tokens_of(["never-seen well-known"]) == [["never", "-", "seen", "well", "-", "known"]]
