"""Gopher, C4 and FineWeb kernels equal slow Python versions of each definition, on generated and on real text."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from heuristics import PARAMS, run, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.pipeline import Sentencizer
from uniseg import wordbreak

from pipeline.stage import Batch, stage_types
from stages.gopher_quality import STOP_WORDS
from stages.kernels import c4_clean, chars
from stages.kernels.english_tokens import SYMBOLS, TERMINAL, code_points

SHARED = Path(__file__).resolve().parents[2] / "shared"
TERMINAL_SET = set(map(chr, code_points(TERMINAL)))
SYMBOL_SET = TERMINAL_SET | set(map(chr, code_points(SYMBOLS)))
# Slow, obvious versions of the definitions, in the order of the stage files.


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


@cache
def english():
    return spacy.blank("en")


def spacy_words(text: str) -> list[str]:
    """As datatrove's `word_tokenize`, but words over 1,000 characters are cut, and no rule of spaCy spans a space."""
    pieces = re.sub(r"(\S{1000})(?=\S)", r"\1\n", text)
    return [token.text for word in pieces.split() for token in english().tokenizer(word)]


def spacy_sentences(line: str) -> int:
    """As spaCy's sentencizer, over the tokens of the line, white space included."""
    marks = set(Sentencizer.default_punct_chars)
    tokens = list(english().tokenizer(line))
    starts, seen = int(bool(tokens)), False
    for token in tokens:
        if seen and not token.is_punct and token.text not in marks:
            starts, seen = starts + 1, False
        seen = seen or token.text in marks
    return starts


def slow_gopher_quality(text: str, variant: str) -> dict:
    words, lines = text.split(), text.split("\n") if text else []
    counted = measured = words
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    bullets: tuple[str, ...] = ("●", "•", "*", "-")
    marks: tuple[str, ...] = ("...", "…")
    stops = [w for w in words if w in STOP_WORDS]
    if variant == "datatrove":
        words, lines, bullets = spacy_words(text), [line.strip() for line in text.splitlines()], ("•", "-")
        counted = measured = [w for w in words if any(c not in SYMBOL_SET for c in w)]
        stops = list({w for w in words if w in STOP_WORDS})
    elif variant == "dolma":
        symbols, bullets, marks = sum("#" in w or "…" in w for w in words), ("*", "-"), ("…",)
    else:
        lines = [line.strip() for line in lines if line.strip()]
    if variant == "paper":
        stops = list(set(stops))
    if variant == "dclm":
        counted = [w for w in re.split(r"[ \n\r\t\v\f\0]+", text) if w and w[0].isalnum()]
        symbols = sum(text.count(mark) for mark in ("#", "...", ". . .", "…"))
        marks = ("...", ". . .", "…")
        stops = [w for w in words if w.lower() in STOP_WORDS]
    return {
        "words": len(counted),
        "mean_word_length": mean(map(len, measured)) if measured else None,
        "median_word_length": median(map(len, measured)) if measured else None,
        "symbol_ratio": ratio(symbols, len(words)),
        "bullet_lines": ratio(sum(line.startswith(bullets) for line in lines), len(lines)),
        "ellipsis_lines": ratio(sum(line.endswith(marks) for line in lines), len(lines)),
        "alpha_words": ratio(sum(any(c.isalpha() for c in w) for w in words), len(words)),
        "stop_words": len(stops),
    }


def unicode_words(text: str) -> list[str]:
    return [word for word in wordbreak.words(text) if word[0].isalnum()]


def slow_gopher_repetition(text: str, variant: str) -> dict:
    words = {"datatrove": spacy_words, "dclm": unicode_words}.get(variant, str.split)(text)
    out: dict[str, float | None] = {}
    word_chars = sum(map(len, words))
    if variant in ("paper", "dclm"):
        lines = [s.strip() for s in text.split("\n") if s.strip()]
        paragraphs = [s.strip() for s in text.split("\n\n") if s.strip()]
    elif variant == "dolma":
        lines, paragraphs = text.split("\n"), None
    else:
        lines, paragraphs = re.split(r"\n+", text), re.split(r"\n{2,}", text.strip())
    for name, parts in (("line", lines), ("para", paragraphs)):
        if parts is None or text == "":
            out |= {f"dup_{name}_frac": None, f"dup_{name}_char_frac": None}
            continue
        seen: set[str] = set()
        often, copies = Counter(parts), []
        for part in parts:
            if part in seen if variant == "datatrove" else often[part] > 1:
                copies.append(part)
            seen.add(part)
        below = {"dolma": word_chars, "datatrove": len(text)}.get(variant, sum(map(len, parts)))
        out[f"dup_{name}_frac"] = ratio(len(copies), len(parts))
        out[f"dup_{name}_char_frac"] = ratio(sum(map(len, copies)), below)
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        name = f"top_{n}gram" if n <= 4 else f"dup_{n}gram"
        out[name] = slow_top(text, words, grams, variant) if n <= 4 else slow_duplicates(text, words, grams, n, variant)
    return out


def slow_top(text: str, words: list[str], grams: list[tuple[str, ...]], variant: str) -> float | None:
    counts, word_chars = Counter(grams), sum(map(len, words))
    if not grams:
        return 0.0 if words and variant in ("paper", "dclm") else None
    best = counts.most_common(1)[0][1]
    first = next(gram for gram in grams if counts[gram] == best)
    if variant == "dolma":
        return best * sum(map(len, first)) / word_chars
    if variant == "datatrove":
        return best * len(" ".join(first)) / len(text)
    longest = max(sum(map(len, gram)) for gram in counts if counts[gram] == best)
    return best * longest / word_chars if best > 1 else 0.0


def slow_duplicates(text: str, words: list[str], grams: list[tuple[str, ...]], n: int, variant: str) -> float | None:
    counts = Counter(grams)
    if variant == "dolma":
        size = {gram: sum(map(len, gram)) * count for gram, count in counts.items()}
        return ratio(sum(size[gram] for gram, count in counts.items() if count > 1), sum(size.values()))
    if variant != "datatrove":
        inside = {k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(i, i + n)}
        return ratio(sum(len(words[k]) for k in inside), sum(map(len, words)))
    seen, characters, i = set(), 0, 0
    while i < len(grams):
        joined = "".join(grams[i])
        characters += len(joined) * (joined in seen)
        i += n if joined in seen else 1
        seen.add(joined)
    return ratio(characters, len(text))


POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def slow_c4(text: str, variant: str, terminal_punctuation: bool = True) -> dict:
    marks = (".", "?", "!", '"') + (("'",) if variant == "datatrove" else ())
    lines, out = [], {"lines_removed": 0, "sentences": 0, "curly": 0, "lorem_ipsum": 0}
    for line in map(str.strip, text.splitlines()):
        before = line.split()
        edited = re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", line)
        words = before if variant == "datatrove" else edited.split()
        lower = edited.lower()
        good = all(len(w) <= 1000 for w in before) and len(words) >= (3 if variant == "datatrove" else 5)
        if terminal_punctuation:
            good = good and edited.endswith(marks) and not edited.endswith("...")
        if good:
            out["lorem_ipsum"] += "lorem ipsum" in lower
            good = "javascript" not in lower
        if good:
            out["curly"] += "{" in edited
            good = not any(phrase in lower for phrase in POLICY)
        if good:
            if variant == "datatrove":
                out["sentences"] += spacy_sentences(edited)
            else:
                raw = np.frombuffer(edited.encode() + b" ", np.uint8)
                out["sentences"] += c4_clean.count_sentences(raw, 0, len(raw) - 1, *chars.tables())
            lines.append(edited)
        else:
            out["lines_removed"] += line != ""
    cleaned = "\n".join(lines).strip()
    return out | {"text": cleaned, "chars_removed": len(text) - len(cleaned)}


def slow_fineweb(text: str, variant: str) -> dict:
    lines = text.split("\n") if text else []
    full = [line for line in lines if line.strip()]
    words, marks, short = text.split(), (".", "'", '"', "!", "?"), 29
    if variant == "code":
        lines, words, marks, short = full, spacy_words(text), tuple(TERMINAL_SET), 30
    copied = sum(len(line) for k, line in enumerate(full) if line in full[:k])
    return {
        "line_punct_ratio": ratio(sum(line.endswith(marks) for line in lines), len(lines)),
        "short_line_ratio": ratio(sum(len(line) <= short for line in lines), len(lines)),
        "char_dup_ratio": ratio(copied, len(text.replace("\n", ""))),
        "list_ratio": ratio(text.count("\n"), len(words)),
    }


SLOW = {
    "gopher_quality": slow_gopher_quality,
    "gopher_repetition": slow_gopher_repetition,
    "c4": slow_c4,
    "fineweb": slow_fineweb,
}


def check(stage: str, params: dict, texts: list[str]) -> None:
    for text, found in zip(texts, run(stage, texts, **params), strict=True):
        removed = found.pop("removed", None)
        expected = SLOW[stage](text, **params)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close = isinstance(value, float) and found[name] is not None
            same = math.isclose(found[name], value, rel_tol=1e-12) if close else found[name] == value
            assert same, (name, found[name], value, text)
        if removed is not None:
            raw = text.encode()
            spans = [(span["start"], span["end"]) for span in removed]
            assert spans == sorted(spans)
            left = list(raw)
            for a, b in reversed(spans):
                raw[a:b].decode()
                del left[a:b]
            assert "".join(bytes(left).decode().split()) == "".join(found["text"].split())


PIECES = st.sampled_from([
    " ", " ", "\n", "\n\n", "\r\n", "\u2028", "\x85", "\u00a0", "the", "of", "a", "ab", "b", "word", "É", "中文", "#",
    "...", "…", ".", "!", '"', "'", "•", "- ", "* ", "● ", "{", "[1]", "[", "[edit]", "[citation needed]", "[٣]", "[]",
    "JavaScript", "javaſcript", "lorem ipsum", "Lorem  ipsum", "use coo\u212aies", "Privacy Policy", "x" * 1001, "İ",
    "the same line again and again.", "one two three four five.", "one two three four five six\n",
    'Dr. Who? Yes. I. am "here." ok',
])  # fmt: skip
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=40).map("".join),
    st.lists(PIECES, max_size=40).map(" ".join),
    st.lists(st.sampled_from("ab"), max_size=60).map(" ".join),
    ANYTHING,
)


@pytest.mark.parametrize(("stage", "params"), variants())
@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_kernels_equal_the_slow_definitions(stage, params, texts):
    check(stage, params, texts)


@pytest.mark.parametrize(("stage", "params"), variants())
def test_kernels_equal_the_slow_definitions_on_real_text(stage, params):
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    check(stage, params, pq.read_table(path, columns=["text"])["text"][:6000:30].to_pylist())


@pytest.mark.parametrize(("stage", "params"), variants())
def test_null_and_sliced_text(stage, params):
    kind = stage_types()[stage]
    texts = pa.array(["skipped", "One two three four five six.", None, ""]).slice(1)
    columns = kind.run(Batch({"text": texts}, 3), PARAMS[stage](**params), None)
    whole = run(stage, [texts[0].as_py(), ""], **params)
    for name, array in columns.items():
        assert array.to_pylist() == [whole[0][name], None, whole[1][name]]
    assert run(stage, [], **params) == []
