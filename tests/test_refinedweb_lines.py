"""RefinedWeb line corrections: golden vectors, and equality with a slow version that runs one step after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import big, check_columns, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from run_stage import broken, check_null_and_slice, columns, run

SHARED = Path(__file__).resolve().parents[2] / "shared"
COUNTER = re.compile(
    r"^\W*\d(?:,|\.|\d)*(?:K|k|M|m|B|b)?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes"
    r"|downvotes|downloads|views|followers)\W*$"
)
BANNED = [
    re.compile(r"\s?items in cart", re.I),
    re.compile(r"\s?read more...$", re.I),
    re.compile(r"^sign-in\s?", re.I),
]


def slow(text: str) -> str:
    """The five steps of the definition, each over the whole text."""

    def upper(line):
        return not line or sum(c.isupper() for c in line) / len(line) <= 0.5

    def numeric(line):
        return not line or sum(c.isdigit() for c in line) / len(line) <= 0.999999

    for keep in (upper, numeric, lambda line: not COUNTER.search(line.lower())):
        text = "\n".join(line for line in text.split("\n") if keep(line)).strip()
    text = "\n".join(line for line in text.split("\n") if not line or len(line.split()) >= 2)
    for pattern in BANNED:
        lines = []
        for line in text.split("\n"):
            edited = pattern.sub("", line) if len(line.split()) <= 10 else line
            if not (line and len(line.split()) <= 10 and not edited.strip()):
                lines.append(edited)
        text = "\n".join(lines).strip()
    return text


def tokens(text: str) -> int:
    return sum(word[0].isalnum() for word in re.split("[ \n\r\t\v\f\0]+", text) if word)


def check(texts: list[str]) -> None:
    for text, found in zip(texts, run("refinedweb_lines", texts), strict=True):
        expected = slow(text)
        assert found["text"] == expected, text
        assert found["chars_removed"] == len(text) - len(expected)
        before = tokens(text)
        share = max(before - tokens(expected), 0) / before if before else None
        assert found["removed_words"] == share, text
        raw = text.encode()
        spans = [(span["start"], span["end"]) for span in found["removed"]]
        assert spans == sorted(spans)
        left = list(raw)
        for a, b in reversed(spans):
            raw[a:b].decode()
            del left[a:b]
        assert "".join(bytes(left).decode().split()) == "".join(expected.split()), text


PIECES = st.sampled_from([
    " ", " ", "\n", "\n", "\n\n", "\t", "\u3000", "\xa0", "\r", "\x1c", "\0", "a", "word", "two words", "UPPER", "ÉÀ",
    "123", "٣", "²", "①", "3 likes", "1.2K views",
    "(4 ſhares)", "5 li\u212aes!", "7 LIKES", "8\u3000quotes…",
    "9,000M followers", "_", "-", "…", "x",
    "items in cart", "ITEMS in Cart", "ıtems in cart", "itemſ \u0130n cart", " items in cart", "items in", " cart",
    "read more...", "Read more abc", "Read more", "READ MORE", " now", "sign-in", "Sign-In ", "ſıgn-in",
    "one two three four five six seven eight nine ten", "中文。", "é",
])  # fmt: skip
TEXTS = st.one_of(
    st.lists(PIECES, max_size=30).map("".join),
    st.lists(PIECES, max_size=30).map(" ".join),
    st.lists(PIECES, max_size=30).map("\n".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_equals_the_steps_one_after_the_other(texts):
    check(texts)


def test_equals_the_steps_on_real_text():
    path = SHARED / "data" / "neardup" / "docs.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    check(pq.read_table(path, columns=["text"])["text"][:6000:15].to_pylist())


def test_by_hand():
    text = (
        "MAIN MENU\n  A line that stays here\n2024\n3 likes\n(1.2k views)\nHome\n\nYou have 2 items in cart now\n"
        "The news of today Read more...\nSign-in or register\nitems in cart\nRead more now\nRead more\n"
    )
    row = run("refinedweb_lines", [text])[0]
    assert row["text"] == (
        "A line that stays here\n\nYou have 2 now\nThe news of today\nor register\nRead more now\nRead more"
    )
    raw = text.encode()
    assert [raw[s["start"] : s["end"]].decode() for s in row["removed"]] == [
        "MAIN MENU", "2024", "3 likes", "(1.2k views)", "Home", " items in cart", " Read more...", "Sign-in ",
        "items in cart",
    ]  # fmt: skip
    assert row["lines_removed"] == 6
    assert row["removed_words"] == 16 / 36


def test_the_rule_of_five_percent():
    kept = "one two three four five six seven eight nine ten\n" * 3 + "a b c d e f g h"
    assert broken("refinedweb_lines", kept + "\n3 likes") == []  # 2 of 40 words
    assert broken("refinedweb_lines", kept + "\nnever\n3 likes") == ["removed_words_max"]
    assert run("refinedweb_lines", ["...", ""])[0]["removed_words"] is None
    assert broken("refinedweb_lines", "") == []


def test_null_and_slice():
    check_null_and_slice("refinedweb_lines", "Some words are here\n12\nitems in cart and so")


def test_hostile():
    texts = hostile_texts()
    found = columns("refinedweb_lines", texts)
    check_columns(found, len(texts))
    check([text for text in texts.to_pylist() if text is not None])
    large = pa.array([big(20_000_000)])
    assert columns("refinedweb_lines", large)["lines_removed"].to_pylist() == [0]
