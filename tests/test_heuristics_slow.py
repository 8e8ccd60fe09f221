"""Gopher, C4 and FineWeb kernels equal slow Python versions of each definition, on generated and on real text."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heuristics import PARAMS, run
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch, stage_types
from stages.gopher_quality import STOP_WORDS
from stages.kernels import c4_clean, chars

SHARED = Path(__file__).resolve().parents[2] / "shared"
VARIANTS = [
    ("gopher_quality", {"variant": "paper"}),
    ("gopher_quality", {"variant": "dolma"}),
    ("gopher_repetition", {"variant": "paper"}),
    ("gopher_repetition", {"variant": "dolma"}),
    ("gopher_repetition", {"variant": "datatrove_split"}),
    ("c4", {"variant": "tfds"}),
    ("c4", {"variant": "datatrove"}),
    ("c4", {"variant": "datatrove", "terminal_punctuation": False}),
    ("fineweb", {"variant": "paper"}),
    ("fineweb", {"variant": "code"}),
]


# Slow, obvious versions of the definitions, in the order of the stage files.


def slow_gopher_quality(text: str, variant: str) -> dict:
    words, lines = text.split(), text.split("\n")
    bullets: tuple[str, ...]
    marks: tuple[str, ...]
    stops = [w for w in words if w in STOP_WORDS]
    if variant == "paper":
        lines = [line.strip() for line in lines if line.strip()]
        symbols = max(text.count("#"), text.count("...") + text.count("…"))
        bullets, marks, stops = ("●", "•", "*", "-"), ("...", "…"), list(set(stops))
    else:
        symbols = sum("#" in w or "…" in w for w in words)
        bullets, marks = ("*", "-"), ("…",)
    return {
        "words": len(words),
        "mean_word_length": mean(map(len, words)) if words else 0,
        "median_word_length": median(map(len, words)) if words else 0,
        "symbol_ratio": symbols / len(words) if words else 0,
        "bullet_lines": sum(line.startswith(bullets) for line in lines) / max(len(lines), 1),
        "ellipsis_lines": sum(line.endswith(marks) for line in lines) / max(len(lines), 1),
        "alpha_words": sum(any(c.isalpha() for c in w) for w in words) / max(len(words), 1),
        "stop_words": len(stops),
    }


def slow_gopher_repetition(text: str, variant: str) -> dict:
    words = text.split()
    out: dict[str, float | None] = {}
    word_chars = sum(map(len, words))
    if variant == "paper":
        lines = [s.strip() for s in text.split("\n") if s.strip()]
        paragraphs = [s.strip() for s in text.split("\n\n") if s.strip()]
    elif variant == "dolma":
        lines, paragraphs = text.split("\n"), None
    else:
        lines, paragraphs = re.split(r"\n+", text), re.split(r"\n{2,}", text.strip())
    for name, parts in (("line", lines), ("para", paragraphs)):
        if parts is None:
            out |= {f"dup_{name}_frac": None, f"dup_{name}_char_frac": None}
            continue
        seen: set[str] = set()
        often, copies = Counter(parts), []
        for part in parts:
            if part in seen if variant == "datatrove_split" else often[part] > 1:
                copies.append(part)
            seen.add(part)
        below = {"paper": sum(map(len, parts)), "dolma": word_chars, "datatrove_split": len(text)}[variant]
        out[f"dup_{name}_frac"] = len(copies) / max(len(parts), 1)
        out[f"dup_{name}_char_frac"] = sum(map(len, copies)) / max(below, 1)
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        size = {gram: sum(map(len, gram)) for gram in counts}
        name = f"top_{n}gram" if n <= 4 else f"dup_{n}gram"
        out[name] = 0.0
        if not grams:
            continue
        if n <= 4:
            best = counts.most_common(1)[0][1]
            first = next(gram for gram in grams if counts[gram] == best)
            if variant == "paper":
                longest = max(size[gram] for gram in counts if counts[gram] == best)
                out[name] = best * longest / word_chars if best > 1 else 0.0
            elif variant == "dolma":
                out[name] = best * size[first] / word_chars
            else:
                out[name] = best * len(" ".join(first)) / len(text)
        elif variant == "paper":
            inside = {k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(i, i + n)}
            out[name] = sum(len(words[k]) for k in inside) / word_chars
        elif variant == "dolma":
            total = sum(size[gram] * count for gram, count in counts.items())
            out[name] = sum(size[gram] * count for gram, count in counts.items() if count > 1) / total
        else:
            seen_joined, characters, i = set(), 0, 0
            while i < len(grams):
                joined = "".join(grams[i])
                characters += len(joined) * (joined in seen_joined)
                i += n if joined in seen_joined else 1
                seen_joined.add(joined)
            out[name] = characters / len(text)
    return out


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
            raw = np.frombuffer(edited.encode() + b" ", np.uint8)
            out["sentences"] += c4_clean.count_sentences(raw, 0, len(raw) - 1, *chars.tables())
            lines.append(edited)
        else:
            out["lines_removed"] += line != ""
    cleaned = "\n".join(lines).strip()
    return out | {"text": cleaned, "chars_removed": len(text) - len(cleaned)}


def slow_fineweb(text: str, variant: str) -> dict:
    lines, words = text.split("\n"), text.split()
    copied, seen = 0, set()
    for line in lines:
        if line.strip():
            copied += len(line) * (line in seen)
            seen.add(line)
    return {
        "line_punct_ratio": sum(line.endswith((".", "'", '"', "!", "?")) for line in lines) / len(lines),
        "short_line_ratio": sum(len(line) < (30 if variant == "paper" else 31) for line in lines) / len(lines),
        "char_dup_ratio": copied / max(len(text.replace("\n", "")), 1),
        "list_ratio": text.count("\n") / max(len(words), 1),
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
            same = math.isclose(found[name], value, rel_tol=1e-12) if isinstance(value, float) else found[name] == value
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


@pytest.mark.parametrize(("stage", "params"), VARIANTS)
@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_kernels_equal_the_slow_definitions(stage, params, texts):
    check(stage, params, texts)


@pytest.mark.parametrize(("stage", "params"), VARIANTS)
def test_kernels_equal_the_slow_definitions_on_real_text(stage, params):
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    check(stage, params, pq.read_table(path, columns=["text"])["text"][:6000:30].to_pylist())


@pytest.mark.parametrize(("stage", "params"), VARIANTS)
def test_null_and_sliced_text(stage, params):
    kind = stage_types()[stage]
    texts = pa.array(["skipped", "One two three four five six.", None, ""]).slice(1)
    columns = kind.run(Batch({"text": texts}, 3), PARAMS[stage](**params), None)
    whole = run(stage, [texts[0].as_py(), ""], **params)
    for name, array in columns.items():
        assert array.to_pylist() == [whole[0][name], None, whole[1][name]]
    assert run(stage, [], **params) == []
