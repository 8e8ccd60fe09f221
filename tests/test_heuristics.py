"""Gopher, C4 and FineWeb statistics: golden vectors by hand, slow Python versions of each definition, real text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch, stage_types
from stages.c4 import C4
from stages.fineweb import FineWeb
from stages.gopher_quality import STOP_WORDS, GopherQuality
from stages.gopher_repetition import GopherRepetition
from stages.kernels import c4_clean, chars

SHARED = Path(__file__).resolve().parents[2] / "shared"
PARAMS = {"gopher_quality": GopherQuality, "gopher_repetition": GopherRepetition, "c4": C4, "fineweb": FineWeb}
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


def run(stage: str, texts: Sequence[str | None], **params) -> list[dict]:
    """The stage's columns as one dict for each text, checked against the declared schema."""
    kind = stage_types()[stage]
    columns = kind.run(Batch({"text": pa.array(texts, pa.string())}, len(texts)), PARAMS[stage](**params), None)
    assert {name: array.type for name, array in columns.items()} == {f.name: f.type for f in kind.adds}
    assert all(len(array) == len(texts) for array in columns.values())
    for array in columns.values():
        array.validate(full=True)
    return pa.table({field.name: columns[field.name] for field in kind.adds}).to_pylist()


def kept(stage: str, text: str, **params) -> list[str]:
    """Names of the rules that a text breaks."""
    kind, chosen = stage_types()[stage], PARAMS[stage](**params)
    row = run(stage, [text], **params)[0]
    return [
        r.name for r in kind.rules(chosen) if not r.holds(pa.array([row[r.column]], kind.adds.field(r.column).type))[0]
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


def footer_document(copies: int) -> str:
    """79 different words of 4 or 5 letters, cut by `copies` of a footer of nine words between two marks."""
    footer = ["|", "about", "contact", "sitemap", "press", "privacy", "help", "home", "legal", "terms", "|"]
    body = [f"{k:05d}" if k < 38 else f"{k:04d}" for k in range(79)]
    step = len(body) // copies
    pieces = [body[k * step : (k + 1) * step if k < copies - 1 else None] + footer for k in range(copies)]
    return " ".join(word for piece in pieces for word in piece)


@pytest.mark.parametrize(
    ("copies", "variant", "dup_5gram", "dup_10gram"),
    [
        (2, "datatrove_split", 0.090, 0.090),  # the second copy, ten words of it, over len(text)
        (2, "dolma", 0.166, 0.048),
        (2, "paper", 0.224, 0.224),  # both copies over the characters of the words
        (3, "datatrove_split", 0.162, 0.162),
        (3, "dolma", 0.223, 0.064),
        (3, "paper", 0.302, 0.302),
    ],
)
def test_a_repeated_footer_is_counted_once_all_or_by_mass(copies, variant, dup_5gram, dup_10gram):
    """One document of 101 words, three definitions: kept by one, dropped by the others (limits .15 and .10)."""
    text = footer_document(copies)
    assert len(text.split()) == 79 + 11 * copies
    row = run("gopher_repetition", [text], variant=variant)[0]
    assert (round(row["dup_5gram"], 3), round(row["dup_10gram"], 3)) == (dup_5gram, dup_10gram)


def test_three_copies_of_a_line_among_ten():
    text = "\n".join(["same"] * 3 + [f"ln {k}" for k in range(7)])
    assert run("gopher_repetition", [text])[0]["dup_line_frac"] == 0.3
    assert run("gopher_repetition", [text], variant="dolma")[0]["dup_line_frac"] == 0.3
    assert run("gopher_repetition", [text], variant="datatrove_split")[0]["dup_line_frac"] == 0.2
    assert "dup_line_frac_max" not in kept("gopher_repetition", text)  # exactly .30 is kept


def test_gopher_repetition_by_hand():
    # words a b a b a b c: 7 characters in 13; ab three times, aba twice, abab twice, no 5-gram repeats
    row = run("gopher_repetition", ["a b a b a b c"])[0]
    assert (row["top_2gram"], row["top_3gram"], row["top_4gram"]) == (6 / 7, 6 / 7, 8 / 7)
    assert row["dup_5gram"] == 0
    row = run("gopher_repetition", ["a b a b a b c"], variant="datatrove_split")[0]
    assert (row["top_2gram"], row["top_3gram"]) == (9 / 13, 10 / 13)
    variants = ("paper", "dolma", "datatrove_split")
    # nothing repeats: 0 in the paper's reading, the first pair in the others
    tops = [run("gopher_repetition", ["aa bb cc"], variant=variant)[0]["top_2gram"] for variant in variants]
    assert tops == [0, 4 / 6, 5 / 8]
    # blank lines are duplicates of each other for dolma only
    lines = [run("gopher_repetition", ["a\n\n\nb"], variant=variant)[0]["dup_line_frac"] for variant in variants]
    assert lines == [0, 0.5, 0]


def test_gopher_quality_by_hand():
    text = "- the cat and the dog ...\n\n# of 12 things…\n  * be #"
    row = run("gopher_quality", [text])[0]
    # words: - the cat and the dog ... # of 12 things… * be #  (14); three lines are not blank
    assert row["words"] == 14
    assert row["mean_word_length"] == pytest.approx((1 + 3 + 3 + 3 + 3 + 3 + 3 + 1 + 2 + 2 + 7 + 1 + 2 + 1) / 14)
    assert row["median_word_length"] == 2.5
    assert row["symbol_ratio"] == 2 / 14  # two hashes, two ellipses: each alone
    assert (row["bullet_lines"], row["ellipsis_lines"]) == (2 / 3, 2 / 3)
    assert row["alpha_words"] == 8 / 14
    assert row["stop_words"] == 4  # the (twice), and, of, be
    row = run("gopher_quality", [text], variant="dolma")[0]
    assert row["symbol_ratio"] == 3 / 14  # "#", "things…", "#"
    assert (row["bullet_lines"], row["ellipsis_lines"]) == (1 / 4, 1 / 4)
    assert row["stop_words"] == 5


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("the cat and dog " * 12 + "one two", []),
        ("the cat and dog " * 12 + "one", ["words_min"]),
        ("the cats and dogs " * 12 + "one two # # # # # #", ["symbol_ratio_max"]),
        ("cat dog " * 30, ["stop_words_min"]),
        ("a b c the of " * 20, ["mean_word_length_min"]),
        ("-cats and the dogs run\n" * 20, ["bullet_lines_max"]),
        ("the of cats 12 13 " * 10, ["alpha_words_min", "mean_word_length_min"]),
        ("", ["words_min", "mean_word_length_min", "alpha_words_min", "stop_words_min"]),
    ],
)
def test_gopher_quality_rules(text, broken):
    assert sorted(kept("gopher_quality", text)) == sorted(broken)


def test_a_ratio_on_the_threshold_is_decided_exactly():
    words = "the of " + "word " * 43 + "# # # # #"  # 5 of 50 words are hashes: .1 is allowed
    assert run("gopher_quality", [words])[0]["symbol_ratio"] == 0.1
    assert kept("gopher_quality", words) == []


def test_c4_by_hand():
    text = (
        "Home | About\r\n"
        'She said: "this line is kept [1] as it is."\n'
        "\n"
        "This line ends in an ellipsis so it goes...\n"
        "Only three words.\n"
        "Please enable JavaScript to see this page now.\n"
        "By reading on you accept our Privacy Policy today.\n"
        "A second good line, from 1999. It has two sentences![citation needed]\u2028"
        "A third one stands behind a line separator."
    )
    row = run("c4", [text])[0]
    assert row["text"] == (
        'She said: "this line is kept  as it is."\n'
        "A second good line, from 1999. It has two sentences!\nA third one stands behind a line separator."
    )
    assert (row["lines_removed"], row["sentences"], row["curly"], row["lorem_ipsum"]) == (5, 4, 0, 0)
    assert row["chars_removed"] == len(text) - len(row["text"])
    cuts = [text.encode()[span["start"] : span["end"]].decode() for span in row["removed"]]
    assert cuts[:3] == ["Home | About", "[1]", "This line ends in an ellipsis so it goes..."]
    assert cuts[-1] == "[citation needed]"
    assert kept("c4", text) == []
    assert kept("c4", text, variant="datatrove") == []  # three words are enough there: five sentences


def test_c4_rules_and_variants():
    assert kept("c4", "One two three four five.\nOne two three four five.") == ["sentences_min"]
    assert kept("c4", "Lorem ipsum dolor sit amet. Then more. And more.") == ["lorem_ipsum"]
    assert kept("c4", "A line with { a bracket. Then more of it. And more.") == ["curly"]
    assert kept("c4", "An { unfinished line\nA good line of words. And more. And more.") == []
    texts = ["It's three words'", "[1] [2] three words [3] here."]
    assert [r["text"] for r in run("c4", texts)] == ["", ""]
    assert [r["text"] for r in run("c4", texts, variant="datatrove")] == ["It's three words'", "three words  here."]
    row = run("c4", ["A heading without mark\nTwo words"], variant="datatrove", terminal_punctuation=False)[0]
    assert (row["text"], row["sentences"]) == ("A heading without mark", 1)
    assert run("c4", ["y" * 1001 + " one two three four."])[0]["text"] == ""
    assert run("c4", ["y" * 1000 + " one two three four."])[0]["lines_removed"] == 0


def test_fineweb_by_hand():
    text = "A long line that ends with a full stop, as it should.\nshort\nshort\n\n" + "z" * 30
    row = run("fineweb", [text])[0]
    assert row["line_punct_ratio"] == 1 / 5
    assert row["short_line_ratio"] == 3 / 5
    assert row["char_dup_ratio"] == 5 / (53 + 5 + 5 + 30)
    assert row["list_ratio"] == 4 / 15
    assert run("fineweb", [text], variant="code")[0]["short_line_ratio"] == 4 / 5
    assert kept("fineweb", text) == []
    assert kept("fineweb", text, variant="code") == ["short_line_ratio_max", "char_dup_ratio_max"]
    assert kept("fineweb", "") == ["line_punct_ratio_min", "short_line_ratio_max"]
