"""Personal data, for any text: scrubbing twice, spans, batches, hostile documents, time that grows with the text."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hostile import big, check_columns, hostile_texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch
from stages.kernels.pii_scan import KIND_OF_RULE, PLACEHOLDERS, RULES
from stages.kernels.pii_shapes import KINDS
from stages.pii import COUNTS, Pii, pii, scrub

PIECES = st.sampled_from(
    ["a@b.com", "c.d@e.org", "212.94.201.10", "2001:67c:2564::7", "+49 30 1234567", "+493012345678", "(212) 557-0123",
     "212-557-0123", "212-555-0123", "4111111111111111", "4111 1111 1111 1111", "GB82WEST12345698765432", "536-32-3065",
     "v", "kernel ", " ", ".", ":", "-", "+", ",", "/", "<", ">", "x1", "@", "00", "\n", "ä", "Phone: ",
     " fax", "782 2652",
     "order ", "https://a.b/", "?q=", "<PHONE>", "<EMAIL>", "ghp_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC2dF4hJ6", "api_key = ",
     "9f8A7c6B5e4D3f2A1b0C", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "MIIEvQIBADANBgkq", "cpf ",
     "11144477735", "12345678Z", "dni ", "0171 234 5678", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
     "＠", "(", ")", "1", "23", "\u00a0", "me@example.com", "192.0.2.7", "user.name"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)
PARAMS = st.sampled_from([Pii(), Pii(replace="fake"), Pii(urls="keep"), Pii(types=("email", "phone", "ip"))])


@settings(max_examples=600, deadline=None)
@given(TEXTS, PARAMS)
@example("+49 30 1234567 8.8.8.200@x.com", Pii(replace="fake"))
def test_scrubbing_twice_changes_nothing(text, params):
    once, _ = scrub(pa.array([text]), params, 7)
    twice, hits = scrub(once, params, 7)
    assert twice.to_pylist() == once.to_pylist()
    assert len(hits.starts) == 0


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_spans_cover_exactly_what_changed(text):
    out = pii(Batch({"text": pa.array([text])}, 1), Pii(), SimpleNamespace(seed=1))
    old, spans = text.encode(), out["spans"][0].as_py()
    assert all(left["end"] <= right["start"] for left, right in pairwise(spans))
    pieces, last = [], 0
    for span in spans:
        pieces += [old[last : span["start"]], f"<{span['type'].upper()}>".encode()]
        last = span["end"]
    assert b"".join([*pieces, old[last:]]).decode() == out["text"][0].as_py()
    assert {name: out[name][0].as_py() for name in COUNTS} == {
        name: sum(span["type"] == kind for span in spans) for name, kind in zip(COUNTS, KINDS, strict=True)
    }


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, max_size=5), PARAMS)
def test_a_document_gets_the_same_alone_and_in_a_batch(texts, params):
    together = scrub(pa.array(texts, pa.string()), params, 3)[0].to_pylist()
    assert together == [scrub(pa.array([text]), params, 3)[0][0].as_py() for text in texts]


def test_hostile_documents():
    texts = hostile_texts()
    for params in (Pii(), Pii(replace="fake"), Pii(urls="keep")):
        out = pii(Batch({"text": texts}, len(texts)), params, SimpleNamespace(seed=1))
        check_columns(out, len(texts))
        assert out["text"].null_count == 1
        for old, new in zip(texts.to_pylist(), out["text"].to_pylist(), strict=True):
            alone = scrub(pa.array([old], pa.string()), params, 1)[0][0].as_py()
            assert new == (None if old is None else alone)


def test_a_document_of_100_mb():
    text = pa.array([big() + " mail a@b.com"])
    out = pii(Batch({"text": text}, 1), Pii(), SimpleNamespace(seed=1))
    assert out["emails"].to_pylist() == [1]
    assert out["text"][0].as_py().endswith("mail <EMAIL>")


BOMBS = [
    "+1 23 ", "a.", "1.", "+(1)", "GB82 ", "2001:", "a@b.", "-1234", "a@", "://", "eyJ", "eyJ.", "ghp_", "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----\n", "password=", "key:", "1 ", "12-", "(1", "<EMAIL", "AAAA99", "0171 ",
    "a@b.com+49301234567", "http://a@b.co", "9", "'",
]  # fmt: skip


@pytest.mark.parametrize("piece", BOMBS)
def test_repeated_fragments_of_patterns_end(piece):
    """A matcher that looks at more than a bounded stretch would not end on these; bench_pii measures their times."""
    text = pa.array([piece * (400_000 // len(piece))])
    once, _ = scrub(text, Pii(), 1)
    assert len(scrub(once, Pii(), 1)[1].starts) == 0


def test_every_rule_has_a_kind_and_a_placeholder():
    assert len(RULES) == len(set(RULES)) == len(KIND_OF_RULE) < 256
    assert tuple(f"<{kind.upper()}>" for kind in KINDS) == PLACEHOLDERS
