"""Columns taken whole give the rows that one by one would, and any pieces are cut into the same batches."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import doc_ids
from pipeline.stage import INGEST_SCHEMA, KEPT
from stages.ingest import dates, records, table_rows
from stages.ingest.records import batches, cut, kept, row_batch
from stages.ingest.tables import TableParams, columns, values

PARAMS = TableParams(kind_column="kind", licence_column="licence", max_record_bytes=1024)
TEXTS = st.one_of(
    st.none(),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"", b"a\0b", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 1025, b"x" * 1024, "ü".encode() * 512]),
)
LETTERS = st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f")
ORDINARY = st.one_of(st.none(), st.text(LETTERS, max_size=9).map(str.encode), st.just(b""))
LINKS = st.one_of(ORDINARY, st.sampled_from([b"http://a.example/\n", b"\x7f", b"\xff", b"u" * 9000]))
LABELS = st.one_of(ORDINARY, st.sampled_from([b" wiki\n", b"\xff", "\u00a0x\u2003".encode(), b"k" * 300]))
TYPES = st.sampled_from([pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), "dictionary"])


def strings(found: list[bytes | None], kind: pa.DataType | str) -> pa.Array:
    """An array of the type that holds these bytes, UTF-8 or not, as a hostile file would."""
    if kind == "dictionary":
        return pa.array(found, pa.binary()).dictionary_encode()
    raw = pa.array(found, pa.large_binary() if kind in (pa.large_binary(), pa.large_string()) else pa.binary())
    return raw.view(kind)


@st.composite
def tables(draw) -> pa.RecordBatch:
    n = draw(st.integers(1, 12))
    plain = draw(st.booleans())

    def column(of: st.SearchStrategy) -> pa.Array:
        return strings(draw(st.lists(of, min_size=n, max_size=n)), draw(TYPES))

    found = {"text": column(ORDINARY if plain else TEXTS)}
    if draw(st.booleans()):
        found["html"] = column(TEXTS)
    if draw(st.booleans()):
        found["url"] = column(ORDINARY if plain else LINKS)
    if draw(st.booleans()):
        days = st.one_of(st.none(), st.dates(datetime.date(1980, 1, 1), datetime.date(2110, 1, 1)))
        found["date"] = pa.array(draw(st.lists(days, min_size=n, max_size=n)), pa.date32())
    found["kind"] = column(LABELS)
    several = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.just("mit"), st.just("cc0")), max_size=3))
    found["licence"] = pa.array(draw(st.lists(several, min_size=n, max_size=n)), pa.list_(pa.string()))
    return pa.RecordBatch.from_pydict(found).slice(draw(st.integers(0, n - 1)))


def one_by_one(batch: pa.RecordBatch, at: int, named: dict[str, str]) -> pa.RecordBatch:
    arrays = {role: values(batch, name) for role, name in named.items()}
    labels = {role: table_rows._labels(arrays.pop(role)) for role in ("kind", "licence") if role in arrays}
    moments = dates.from_array(arrays.pop("date")) if "date" in arrays else [None] * batch.num_rows
    return row_batch([
        table_rows._row(at + i, {role: array[i] for role, array in arrays.items()}, moments[i],
                        {role: column[i] for role, column in labels.items()}, PARAMS)
        for i in range(batch.num_rows)
    ])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(tables())
def test_whole_columns_give_the_rows_of_one_by_one(batch):
    named = columns(batch.schema, PARAMS)
    found = pa.Table.from_batches(table_rows.table_rows(batch, 7, named, PARAMS))
    assert found.schema.equals(INGEST_SCHEMA)
    assert found.to_pylist() == one_by_one(batch, 7, named).to_pylist()


def test_ordinary_columns_are_taken_whole(monkeypatch):
    monkeypatch.setattr(table_rows, "_row", None)  # not one by one
    batch = pa.RecordBatch.from_pydict({"text": ["a", "ü"], "url": ["http://a.example/ü", None], "kind": ["wiki", " "],
                                        "licence": [["mit", "cc0"], None]})  # fmt: skip
    (found,) = table_rows.table_rows(batch, 0, columns(batch.schema, PARAMS), PARAMS)
    rows = found.to_pylist()
    assert [(row["text"], row["kind"], row["licence"]) for row in rows] == [
        ("a", "wiki", "mit, cc0"),
        ("ü", None, None),
    ]
    assert [row["verdict"] for row in rows] == [KEPT, KEPT]


def test_a_heavy_batch_is_turned_into_rows_piece_by_piece(monkeypatch):
    monkeypatch.setattr(table_rows, "PIECE", 1000)
    batch = pa.RecordBatch.from_pydict({"text": ["x" * 100] * 64})
    params = TableParams()
    found = list(table_rows.table_rows(batch, 0, columns(batch.schema, params), params))
    assert len(found) > 5
    assert [offset for part in found for offset in part["record_offset"].to_pylist()] == list(range(64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.data())
def test_any_pieces_are_cut_as_rows_are(lengths, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BATCH_RECORDS", 8)
        patch.setattr(records, "BATCH_BYTES", 20)
        rows = [kept(at, text="x" * length) for at, length in enumerate(lengths)]
        ends = [*sorted(data.draw(st.sets(st.integers(1, len(rows))))), len(rows)]
        pieces = [row_batch(rows[a:b]) for a, b in zip([0, *ends], ends, strict=False) if a < b]
        assert [part.to_pylist() for part in cut(pieces)] == [part.to_pylist() for part in batches(rows)]


def test_ids_are_the_hash_of_source_file_and_offset():
    found = doc_ids("web", "a.warc", [0, 17])
    found.validate(full=True)
    assert found.to_pylist() == ["d5a00ce4a36165afc3fc5ffe6c4ff4a3", "fe652e98dabf4dea9e045eaa6bcaac9d"]
    assert doc_ids("web", "a.warc", []).to_pylist() == []
