"""Arrow IPC streams and files: slices of whole batches, columns by name, damage that costs one batch."""

import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import FS, noise, rows_of

from pipeline.stage import KEPT, QUARANTINED
from stages.ingest import arrow

TEXTS = [f"text {i}" if i % 5 else None for i in range(50)]


def table(texts=TEXTS):
    n = len(texts)
    return pa.table({
        "text": texts,
        "html": [b"<p>%d</p>" % i if i % 10 else None for i in range(n)],
        "url": [f"http://a.example/{i}" for i in range(n)],
        "meta": [{"license": "cc-by", "size": i} for i in range(n)],
        "kind": pa.array([("wiki", "book")[i % 2] for i in range(n)]).dictionary_encode(),
        "z": range(n),
    })  # fmt: skip


def put(path, data, batch_rows=7, new=pa.ipc.new_stream, **options):
    with pa.OSFile(str(path), "wb") as sink, new(sink, data.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(data, max_chunksize=batch_rows)
    return path


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_streams_and_files(tmp_path, new, compression):
    path = put(tmp_path / "x.arrow", table(), new=new, compression=compression)
    columns = {"kind_column": "kind", "licence_column": "meta.license"}
    found = rows_of(arrow, path, slice_rows=10, **columns)
    assert [row["record_offset"] for row in found] == list(range(50))
    assert found[1]["text"] == "text 1"
    assert (found[5]["html"], found[5]["text"], found[5]["url"]) == (b"<p>5</p>", None, "http://a.example/5")
    assert found[10]["reason"] == "no_text"
    assert {(row["kind"], row["licence"]) for row in found if row["verdict"] == KEPT} == {
        ("wiki", "cc-by"), ("book", "cc-by")}  # fmt: skip
    assert found == rows_of(arrow, path, **columns)
    slices = arrow.split(FS, str(path), 0, arrow.Arrow(slice_rows=10))
    assert slices == [(0, 14), (14, 28), (28, 42), (42, 50)]


def test_what_datasets_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["one", "two"], "source": ["book", None]}).save_to_disk(str(tmp_path / "set"))
    (path,) = (tmp_path / "set").glob("*.arrow")
    found = rows_of(arrow, path, kind_column="source")
    assert [(row["text"], row["kind"]) for row in found] == [("one", "book"), ("two", None)]


def test_empty_and_wrong_files(tmp_path):
    path = put(tmp_path / "x.arrow", table([]))
    assert rows_of(arrow, path) == []
    for data in (b"", b"no arrow", b"\xff\xff\xff\xff\x10\0\0\0" + bytes(20), b"ARROW1\0\0"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="schema"):
            arrow.split(FS, str(path), len(data), arrow.Arrow())
    put(path, table())
    for wrong, error in (({"text": "z"}, "expected strings"), ({"kind_column": "nope"}, "kind_column: expected"),
                         ({"text": "nope", "html": "nor"}, "expected a column 'nope'")):  # fmt: skip
        with pytest.raises(ValueError, match=error):
            arrow.split(FS, str(path), 0, arrow.Arrow(**wrong))


def test_damage_costs_its_batch(tmp_path):
    path = put(tmp_path / "x.arrow", table([noise(i).decode() for i in range(40)]), 10)
    data = path.read_bytes()
    at = data.index(noise(15)[:400])
    path.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])  # no UTF-8: that row alone
    assert [row["reason"] for row in rows_of(arrow, path)] == [None] * 15 + ["bad_utf8"] + [None] * 24
    path.write_bytes(data[: data.index(noise(25)[:400])])
    found = rows_of(arrow, path, slice_rows=10)
    assert [row["verdict"] for row in found] == [KEPT] * 20 + [QUARANTINED] * 10
    assert {row["reason"] for row in found[20:]} == {"broken_batch"}
    assert "expected" in found[-1]["error"]


def test_offsets_that_leave_their_buffer_are_refused(tmp_path):
    path = put(tmp_path / "x.arrow", pa.table({"text": ["a" * 9, "b" * 9, "c" * 9]}))
    data = path.read_bytes()
    for wrong in (1 << 30, -5, 18 << 8):
        offsets = b"".join(x.to_bytes(4, "little", signed=True) for x in (0, 9, 18, 27))
        broken = offsets[:8] + wrong.to_bytes(4, "little", signed=True) + offsets[12:]
        path.write_bytes(data.replace(offsets, broken))
        assert [row["reason"] for row in rows_of(arrow, path)] == ["broken_batch"] * 3


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_any_damage_ends_in_rows_or_one_clear_error(tmp_path, seed):
    path = tmp_path / "x.arrow"
    if not path.exists():
        put(path, table(), 25)
        (tmp_path / "sound").write_bytes(path.read_bytes())
    data, dice = bytearray((tmp_path / "sound").read_bytes()), random.Random(seed)
    for _ in range(dice.randrange(1, 6)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path.write_bytes(data[: dice.randrange(len(data))] if dice.random() < 0.2 else data)
    try:
        found = rows_of(arrow, path, kind_column="kind", licence_column="meta.license")
    except ValueError as error:
        found, message = [], str(error)
    else:
        message = "expected"
    assert "expected" in message
    assert len(found) <= 2000
