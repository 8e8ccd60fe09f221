"""The readers of JSON lines and Parquet: each broken line or row group costs itself only, in slices of any size."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import FS, noise, rows_of

from pipeline.stage import KEPT
from stages.ingest import jsonl, parquet

LINES = [
    b'{"text": "one", "url": "http://a.example/1"}',
    b'{"html": "<p>two</p>", "text": null}',
    b"",
    b"not json",
    b"[1, 2]",
    b'{"text": "\\ud800 lone"}',
    b'{"text": "nul \\u0000 byte"}',
    b'{"text": 5}',
    b'{"other": 1}',
    b'{"text": ""}',
    b'{"text": "\xff\xfe"}',
    b"[" * 100_000,
    b'{"text": "last"}',
]
LINE_FATES = [None, None, "bad_json", "bad_json", "lone_surrogate", "nul_bytes", "bad_type", "no_text", "empty_body",
              "bad_json", "bad_json", None]  # fmt: skip


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True)])
def test_json_lines(write, pack, end):
    data = b"\n".join(LINES) + end
    found = rows_of(jsonl, write(pack(data), "x.jsonl"))
    assert [row["reason"] for row in found] == LINE_FATES
    assert found[0]["text"] == "one"
    assert found[0]["url"] == "http://a.example/1"
    assert (found[1]["html"], found[1]["charset"], found[1]["text"]) == (b"<p>two</p>", "utf-8", None)
    assert data[found[-1]["record_offset"] :].startswith(LINES[-1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=20), slice_bytes=st.integers(1, 300))
def test_json_lines_slices(tmp_path, texts, slice_bytes):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(json.dumps({"text": text}).encode() for text in texts))
    whole = rows_of(jsonl, path, slice_bytes=1 << 30)
    assert rows_of(jsonl, path, slice_bytes=slice_bytes) == whole
    assert [row["text"] for row in whole if row["verdict"] == KEPT] == [t for t in texts if t and "\0" not in t]
    assert len(whole) == len(texts)


def test_json_lines_broken_streams_and_long_lines(write):
    data = b"".join(json.dumps({"t": f"{i} " * 50}).encode() + b"\n" for i in range(50))
    found = rows_of(jsonl, write(gzip.compress(data)[:-60], "x.gz"), text="t")
    assert found[-1]["reason"] == "broken_gzip"
    assert all(row["verdict"] == KEPT for row in found[:-1])
    big = b'{"text": "' + b"x" * 3_000_000 + b'"}\n{"text": "b"}\n'
    assert [row["reason"] for row in rows_of(jsonl, write(big), max_record_bytes=1_000_000)] == ["too_large", None]
    assert [row["reason"] for row in rows_of(jsonl, write(big), slice_bytes=1000)] == [None, None]


def test_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    n = 1000
    texts = [f"text {i}" if i % 7 else None for i in range(n)]
    pages = [b"<p>%d</p>" % i if i % 2 else None for i in range(n)]
    table = pa.table({"body": texts, "html": pages, "link": [f"http://a.example/{i}" for i in range(n)], "z": range(n)})
    pq.write_table(table, path, row_group_size=130)
    found = rows_of(parquet, path, text="body", url="link", slice_rows=200)
    assert [row["record_offset"] for row in found] == list(range(n))
    assert found[1]["text"] == "text 1"
    assert found[7]["html"] == b"<p>7</p>"
    assert found[14]["reason"] == "no_text"
    assert found == rows_of(parquet, path, text="body", url="link")
    assert parquet.split(FS, str(path), 0, parquet.Parquet(text="body", slice_rows=200)) == [
        (0, 260), (260, 520), (520, 780), (780, 1000)]  # fmt: skip
    with pytest.raises(ValueError, match="expected a column 'nope'"):
        parquet.split(FS, str(path), 0, parquet.Parquet(text="nope", html="nor"))
    with pytest.raises(ValueError, match="expected strings"):
        parquet.split(FS, str(path), 0, parquet.Parquet(text="z"))


def test_parquet_types_and_limits(tmp_path):
    path = tmp_path / "x.parquet"
    values = ["a", "nul \0", "", "x" * 5000, "a"]
    for column in (pa.array(values), pa.array(values, pa.large_string()), pa.array(values).dictionary_encode()):
        pq.write_table(pa.table({"text": column}), path)
        found = rows_of(parquet, path, max_record_bytes=1024)
        assert [row["reason"] for row in found] == [None, "nul_bytes", "empty_body", "too_large", None]
    pq.write_table(pa.table({"text": pa.array([b"ok", b"\xff"])}), path)
    assert [row["reason"] for row in rows_of(parquet, path)] == [None, "bad_utf8"]


def test_a_broken_row_group_quarantines_its_rows(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [noise(i).decode() for i in range(300)]}), path, row_group_size=100)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = rows_of(parquet, path)
    assert [row["reason"] for row in found] == [None] * 100 + ["broken_row_group"] * 100 + [None] * 100


RECORDS = [
    {"t": {"body": "one"}, "kind": "wiki", "meta": {"license": "cc-by-sa"}},
    {"t": {"body": "two"}, "kind": None, "meta": {"license": ["mit", "apache-2.0"]}},
    {"t": {"body": "three"}, "kind": "", "meta": None},
    {"t": {"body": "four"}, "kind": "x" * 300, "meta": {"license": "a\nb"}},
]
LABELS = [("wiki", "cc-by-sa"), (None, "mit, apache-2.0"), (None, None), ("x" * 256, "a\N{REPLACEMENT CHARACTER}b")]
MAPPING = {"text": "t.body", "kind_column": "kind", "licence_column": "meta.license"}


def test_json_lines_with_mapped_labels(write):
    lines = [*RECORDS, {"t": {"body": "five"}, "kind": 5}, {"t": "six"}, {"t.body": "seven", "meta.license": "cc0"}]
    found = rows_of(jsonl, write("\n".join(map(json.dumps, lines)).encode(), "x.jsonl"), **MAPPING)
    assert [(row["kind"], row["licence"]) for row in found[:4]] == LABELS
    assert [row["text"] for row in found[:4]] == ["one", "two", "three", "four"]
    assert [row["reason"] for row in found[4:]] == ["bad_type", "no_text", None]
    assert (found[6]["text"], found[6]["licence"]) == ("seven", "cc0")
    plain = rows_of(jsonl, write(b'{"text": "a", "kind": "wiki", "licence": "mit"}'))
    assert (plain[0]["kind"], plain[0]["licence"]) == (None, None)


def test_parquet_with_mapped_labels(tmp_path):
    path = tmp_path / "x.parquet"
    records = [{**record, "license": (record["meta"] or {}).get("license")} for record in RECORDS]
    lists = [[x] if isinstance(x, str) else x for x in (record["license"] for record in records)]
    bodies = [record["t"] for record in records]
    kinds = pa.array([record["kind"] for record in records]).dictionary_encode()
    meta = pa.array([None if x is None else {"license": x} for x in lists])
    pq.write_table(pa.table({"t": bodies, "kind": kinds, "meta": meta, "licences": lists}), path)
    for licence in ("meta.license", "licences"):
        found = rows_of(parquet, path, **{**MAPPING, "licence_column": licence})
        assert [(row["kind"], row["licence"]) for row in found] == LABELS
        assert [row["text"] for row in found] == ["one", "two", "three", "four"]
    pq.write_table(pa.table({"text": ["a", "b"], "kind": pa.array([b"wiki", b"\xff"])}), path)
    assert [row["kind"] for row in rows_of(parquet, path, kind_column="kind")] == ["wiki", "\N{REPLACEMENT CHARACTER}"]
    for wrong, error in (({"kind_column": "nope"}, "kind_column: expected a column 'nope'"),
                         ({"licence_column": "kind.x"}, "licence_column: expected")):  # fmt: skip
        with pytest.raises(ValueError, match=error):
            parquet.split(FS, str(path), 0, parquet.Parquet(**wrong))


def test_a_record_of_100_mb_and_empty_files(write):
    big = b'{"text": "' + b"x" * 100_000_000 + b'"}\n{"text": "b"}\n'
    found = rows_of(jsonl, write(big, "x.jsonl"))
    assert [row["reason"] for row in found] == ["too_large", None]
    assert len(rows_of(jsonl, write(big, "x.jsonl"), max_record_bytes=1 << 28)[0]["text"]) == 100_000_000
    assert rows_of(jsonl, write(b"", "x.jsonl")) == []
    with pytest.raises(pa.ArrowInvalid):
        parquet.split(FS, str(write(b"", "x.parquet")), 0, parquet.Parquet())
