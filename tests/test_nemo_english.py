"""NeMo's English preset: golden vectors, and equality with slow versions of its filters."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import big, check_columns, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from run_stage import broken, check_null_and_slice, columns, run

from stages.kernels.nemo import BOILERPLATE_PHRASES, BULLETS, COMMON

SHARED = Path(__file__).resolve().parents[2] / "shared"
ELLIPSES = ("...", "[...]", "…", "(...)", "[…]", "-»", "read more..", "read more")
URL = re.compile(r"https?://(?:[a-zA-Z0-9$\-_@.&+!*(),]|%[0-9a-fA-F][0-9a-fA-F])+")
POLICIES = [phrase.decode() for phrase in BOILERPLATE_PHRASES]


def slow(text: str) -> dict:
    words, size = text.split(), len(text)
    lines = [line for line in text.split("\n") if line.strip()]
    bare = [line.strip() for line in lines]
    paragraphs = text.split("\n\n")
    low = [paragraph.lower() for paragraph in paragraphs]
    boilerplate = 1.0
    if not any("lorem ipsum" in paragraph for paragraph in low):
        boilerplate = sum(any(policy in paragraph for policy in POLICIES) for paragraph in low) / len(low)

    def of(value, total):
        return value / total if total else None

    def unique(parts):
        return of(len(set(parts)), len(parts)) if lines else None

    def unique_chars(parts):
        return of(len("".join(set(parts))), len("".join(parts))) if lines else None

    out = {
        "words": len(words),
        "mean_word_length": of(sum(map(len, words)), len(words)),
        "longest_word": max(map(len, words), default=None),
        "non_alphanumeric": of(size - len(re.findall("[a-zA-Z0-9\n?!,.]", text)), size),
        "symbol_words": of(sum(w in ELLIPSES or len(re.findall("#+", w)) / len(w) > 0.5 for w in words), len(words)),
        "numbers": of(len(re.findall("[0-9]", text)), size),
        "urls": of(sum(map(len, URL.findall(text))), size),
        "white_space": of(sum(c in "\t\n\r\b " for c in text), size),
        "parentheses": of(sum(c in "{}⟨⟩[]()" for c in text), size),
        "boilerplate": boilerplate if lines else None,
        "unique_lines": unique(lines),
        "unique_paragraphs": unique(paragraphs),
        "unique_line_chars": unique_chars(lines),
        "unique_paragraph_chars": unique_chars(paragraphs),
        "unended_lines": of(sum(not line.endswith((".", "?", "!", '"', "'")) for line in bare), len(lines)),
        "alpha_words": of(sum(any(map(str.isalpha, w)) for w in words), len(words)),
        "common_words": sum(word in COMMON for word in words),
        "ellipsis_lines": of(sum(line.lower().endswith(ELLIPSES) for line in bare), len(lines)),
        "bullet_lines": of(sum(line.startswith(tuple(BULLETS)) for line in bare), len(lines)),
    }
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        name = f"top_{n}gram" if n <= 4 else f"dup_{n}gram"
        if not grams:
            out[name] = None
        elif n <= 4:
            best = max(map(grams.count, grams))
            joined = " ".join(next(gram for gram in grams if grams.count(gram) == best))
            out[name] = (size - len(text.replace(joined, ""))) / size
        else:
            seen, taken, overlap = set(), 0, 0
            for gram in grams:
                if gram in seen:
                    taken += sum(map(len, gram[overlap:])) + min(n - overlap, n - 1)
                    overlap = n
                seen.add(gram)
                overlap = max(overlap - 1, 0)
            out[name] = taken / size
    return out


def check(texts: list[str]) -> None:
    for text, found in zip(texts, run("nemo_english", texts), strict=True):
        expected = slow(text)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same = math.isclose(found[name], value, rel_tol=1e-12) if isinstance(value, float) else found[name] == value
            assert same, (name, found[name], value, text)


PIECES = st.sampled_from([
    " ", "\n", "\n\n", "\n\n\n", "\u3000", "\x08", "the", "of", "a", "ab", "b", "word", "É", "中文", "#", "##", "#a#",
    "...", "[...]", "…", "(…)", "[…]", "-»", "Read More", "read more..", "read more...", "• ", "⦿", "- ", "(", "⟩",
    "⟨x", "12",
    "http://a.b/c", "https://x%2G", "http://%41%4", "https://", "htthttp://y", "Lorem Ipsum", "Use coo\u212aies",
    "PRIVACY OVERVIEW", "privacy & cookies policy", POLICIES[10], POLICIES[12].upper(), "the same words again.",
    "one two three four five six", "²", "'",
])  # fmt: skip
TEXTS = st.one_of(
    st.lists(PIECES, max_size=20).map("".join),
    st.lists(PIECES, max_size=20).map(" ".join),
    st.lists(st.sampled_from("ab"), max_size=60).map(" ".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_equals_the_slow_definition(texts):
    check(texts)


def test_equals_the_slow_definition_on_real_text():
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    texts = pq.read_table(path, columns=["text"])["text"][:6000:60].to_pylist()
    check([text[:3000] for text in texts])


def footer_document(copies: int) -> str:
    """79 different words of 4 or 5 letters, cut by `copies` of a footer of nine words between two marks."""
    footer = ["|", "about", "contact", "sitemap", "press", "privacy", "help", "home", "legal", "terms", "|"]
    body = [f"{k:05d}" if k < 38 else f"{k:04d}" for k in range(79)]
    step = len(body) // copies
    pieces = [body[k * step : (k + 1) * step if k < copies - 1 else None] + footer for k in range(copies)]
    return " ".join(word for piece in pieces for word in piece)


@pytest.mark.parametrize(("copies", "share"), [(2, 0.110), (3, 0.197)])
def test_a_repeated_footer_counts_its_later_copies_with_blanks(copies, share):
    row = run("nemo_english", [footer_document(copies)])[0]
    assert (round(row["dup_5gram"], 3), round(row["dup_10gram"], 3)) == (share, share)


def test_by_hand():
    text = "the dog • of\n\n• the dog saw\nRead More\n\nsee terms of use"
    row = run("nemo_english", [text])[0]
    assert (row["common_words"], row["bullet_lines"], row["ellipsis_lines"]) == (4, 1 / 4, 1 / 4)
    assert (row["boilerplate"], row["unended_lines"]) == (1 / 3, 1)
    assert row["top_2gram"] == 2 * len("the dog") / len(text)
    assert run("nemo_english", ["## x # y"])[0]["symbol_words"] == 1 / 4
    assert run("nemo_english", ["see https://a.org/very/long"])[0]["urls"] == len("https://a.org") / 27
    assert run("nemo_english", ["fine\n\nLorem Ipsum"])[0]["boilerplate"] == 1


GOOD = (
    "It rained all night and the river had risen over the lower fields. When we came down to breakfast, my aunt said "
    "that the bridge was gone.\nNobody knew what to do with three hundred sheep on the wrong side, least of all my "
    "uncle. He drank his tea, looked out of the window, and asked whether anyone had seen his boots.\n"
)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (GOOD, []),
        (GOOD + "(x) " * 40, ["non_alphanumeric_max", "parentheses_max", "top_2gram_max", "top_3gram_max",
                              "top_4gram_max", *(f"dup_{n}gram_max" for n in range(5, 11))]),
        ("the cat and dog.\n" * 20, ["unique_lines_min", "unique_line_chars_min", "top_2gram_max", "top_3gram_max",
                                    "top_4gram_max", *(f"dup_{n}gram_max" for n in range(5, 11))]),
        ("", ["words_min", "common_words_min"]),
    ],
)  # fmt: skip
def test_rules(text, rules):
    assert broken("nemo_english", text) == rules


def test_null_and_slice():
    check_null_and_slice("nemo_english", "The words of a line.\nThe words of a line.\n\nand (more) of the words")


def test_hostile():
    texts = hostile_texts()
    check_columns(columns("nemo_english", texts), len(texts))
    large = pa.array([big(20_000_000), "a" * 500_000 + " " + "a" * 500_000])
    found = columns("nemo_english", large)
    check_columns(found, 2)
    assert found["top_2gram"][1].as_py() == 1
