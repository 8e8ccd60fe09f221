"""Rows of INGEST_SCHEMA out of the columns of a table.

Columns are taken whole where all their values are ordinary: strings that are UTF-8 without NULs, URLs without control
characters. A row that has no text, or an empty or a too long one, is made by itself, and so is each row of a batch with
strings that are not ordinary: a column that promises UTF-8 and holds something else costs the row, not the file. Both
ways give the same rows. Cost: 1 us for a row of a column taken whole, 6 us for one that is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import INGEST_SCHEMA, KEPT
from stages.ingest import dates
from stages.ingest.records import URL_CHARS, Row, clean, dropped, label, quarantined, row_batch, text_row
from stages.ingest.tables import TableParams, values

PIECE = 64 << 20  # bytes that are turned into rows at a time
MOST = 1 << 30  # bytes of a column that are taken whole: 32 bits count those of a string column
_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.binary(): pa.binary(),
          pa.large_binary(): pa.large_binary()}  # fmt: skip


def table_rows(batch: pa.RecordBatch, at: int, named: dict[str, str], params: TableParams) -> Iterator[pa.RecordBatch]:
    """INGEST_SCHEMA rows of a batch, of which the first has row number `at`, in pieces of about PIECE bytes."""
    step = max(1, batch.num_rows * PIECE // max(PIECE, batch.nbytes))
    for first in range(0, batch.num_rows, step):
        yield _rows(batch.slice(first, step), at + first, named, params)


def _rows(batch: pa.RecordBatch, at: int, named: dict[str, str], params: TableParams) -> pa.RecordBatch:
    arrays = {role: values(batch, name) for role, name in named.items()}
    labels = {role: _labels(arrays.pop(role)) for role in ("kind", "licence") if role in arrays}
    moments = dates.from_array(arrays.pop("date")) if "date" in arrays else None

    def singly(rows: np.ndarray) -> pa.RecordBatch:
        return row_batch([
            _row(at + i, {role: array[i] for role, array in arrays.items()}, moments[i] if moments else None,
                 {role: column[i] for role, column in labels.items()}, params)
            for i in rows.tolist()
        ])  # fmt: skip

    n = batch.num_rows
    whole = _ordinary(arrays)
    try:
        made = {role: pa.array(map(label, column), pa.string()) for role, column in labels.items()}
    except TypeError:  # a list with a null
        whole = None
    if whole is None:
        return singly(np.arange(n))
    sizes = {role: pc.binary_length(array) for role, array in whole.items()}
    size = pc.coalesce(*(sizes[role] for role in ("text", "html") if role in sizes), pa.scalar(0, pa.int64()))
    fits = [np.asarray(pc.fill_null(length, 0)) <= params.max_record_bytes for length in sizes.values()]
    chosen = np.logical_and.reduce([np.asarray(size) > 0, *fits])
    columns = _columns(whole, arrays, at, n) | made
    if moments:
        columns["date"] = pa.array(moments, pa.timestamp("ms"))
    found = pa.RecordBatch.from_arrays(
        [columns[f.name] if f.name in columns else pa.nulls(n, f.type) for f in INGEST_SCHEMA], schema=INGEST_SCHEMA
    )
    if chosen.all():
        return found
    others = np.flatnonzero(~chosen)
    place = np.argsort(np.concatenate([np.flatnonzero(chosen), others]), kind="stable")
    both = pa.Table.from_batches([found.filter(pa.array(chosen)), singly(others)])
    return both.take(pa.array(place)).combine_chunks().to_batches()[0]


def _columns(whole: dict[str, pa.Array], arrays: dict[str, pa.Array], at: int, n: int) -> dict[str, pa.Array]:
    """Number, URL, text, HTML, charset and verdict of `n` rows that are all kept."""
    found = {
        "record_offset": pa.array(np.arange(at, at + n)),
        "verdict": pa.array(np.full(n, KEPT, np.uint8)),
    }
    for role in ("url", "text"):
        if role in whole:
            found[role] = whole[role].cast(pa.string())
    if "html" in whole:
        page = whole["html"].cast(pa.binary())
        found["html"] = pc.if_else(whole["text"].is_valid(), None, page) if "text" in whole else page
        if _is_text(arrays["html"].type):  # the file says so
            found["charset"] = pc.if_else(found["html"].is_valid(), "utf-8", None)
    return found


def _ordinary(arrays: dict[str, pa.Array]) -> dict[str, pa.Array] | None:
    """Text, HTML and URL as bytes; None where some value needs a look of its own."""
    found = {}
    for role, array in arrays.items():
        if array.type not in _BYTES:
            return None
        raw = found[role] = array.view(_BYTES[array.type])
        data = _data(raw)
        if len(data) > MOST:
            return None
        if role == "text" and (data == 0).any():
            return None
        if role == "url" and ((data < 0x20) | (data == 0x7F)).any():
            return None
        if role == "url" and (pc.max(pc.binary_length(raw)).as_py() or 0) > URL_CHARS:
            return None
        if role != "html" or _is_text(array.type):
            try:
                raw.cast(pa.large_string() if array.type in (pa.large_string(), pa.large_binary()) else pa.string())
            except pa.ArrowInvalid:
                return None
    return found


def _data(raw: pa.Array) -> np.ndarray:
    """uint8: the bytes of all values, one after the other; those of nulls among them."""
    wide = pa.types.is_large_binary(raw.type)
    _, offsets, data = raw.buffers()
    if data is None or not len(raw):
        return np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)[raw.offset : raw.offset + len(raw) + 1]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]


def _labels(array: pa.Array) -> list:
    """Bytes (or lists of bytes) of a string column: text that is no UTF-8 must not break the batch."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return array.cast(pa.large_list(pa.large_binary())).to_pylist()
    return array.cast(pa.large_binary()).to_pylist()


def _row(number: int, found: dict[str, pa.Scalar], date: int | None, labels: dict[str, object],
         params: TableParams) -> Row:  # fmt: skip
    link, text, page = found.get("url"), found.get("text"), found.get("html")
    url = None if link is None or not link.is_valid else link.as_buffer().to_pybytes()
    sizes = [scalar.as_buffer().size for scalar in found.values() if scalar.is_valid]
    if max(sizes, default=0) > params.max_record_bytes:
        return dropped(number, "too_large", url=clean(url))
    try:
        body = None if text is None or not text.is_valid else str(text.as_buffer(), "utf-8")
    except UnicodeDecodeError as error:
        return quarantined(number, "bad_utf8", f"text: {error}", text.as_buffer().to_pybytes())  # type: ignore[union-attr]
    html = None if page is None or not page.is_valid else page.as_buffer().to_pybytes()
    row = text_row(number, body, html, url, date, **labels)
    if row.get("html") is not None and _is_text(page.type):  # type: ignore[union-attr]
        row["charset"] = "utf-8"  # the file says so
    return row


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
