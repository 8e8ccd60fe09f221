"""`parquet`: a row is a document; text, HTML and URL come from the columns that the manifest names.

Slices are whole row groups, written as row numbers, and the record offset is the row number. A row group that cannot
be read gives a quarantined row for each of its rows, for the footer tells how many they are. Cost: the named columns
are read, 256 rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline.stage import Params, source_format
from stages.ingest.records import BATCH_RECORDS, BLOCK, Row, batches, dropped, quarantined, text_row


class Parquet(Params):
    """A Parquet source. It needs a text or an HTML column; a missing URL column gives null URLs."""

    text: str = Field("text", description="column of the text (string)")
    html: str = Field("html", description="column of the HTML (string or binary), used where a row has no text")
    url: str = Field("url", description="column of the URL (string)")
    slice_rows: int = Field(20_000, ge=1, description="rows of a slice, rounded up to whole row groups")
    max_record_bytes: int = Field(16 << 20, ge=1024, le=1 << 30, description="longer values are dropped: too_large")


def split(fs, path: str, size: int, params: Parquet) -> list[tuple[int, int]]:
    """Row ranges that end where row groups end. Raises ValueError when the columns are not there."""
    with fs.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        _columns(file, params)
        ranges, start, end = [], 0, 0
        for group in range(file.num_row_groups):
            end += file.metadata.row_group(group).num_rows
            if end - start >= params.slice_rows:
                ranges.append((start, end))
                start = end
    if end > start or not ranges:
        ranges.append((start, end))
    return ranges


@source_format("parquet", Parquet, split=split)
def read(fs, path: str, start: int, end: int, params: Parquet) -> Iterator[pa.RecordBatch]:
    """Rows [start, end) of the file."""
    with fs.open_input_file(path) as source:
        yield from batches(_rows(source, start, end, params))


def _columns(file: pq.ParquetFile, params: Parquet) -> list[str]:
    there = file.schema_arrow
    if params.text not in there.names and params.html not in there.names:
        raise ValueError(f"expected a column {params.text!r} (text) or {params.html!r} (html), found {there.names}")
    named = [name for name in (params.text, params.html, params.url) if name in there.names]
    for name in named:
        kind = there.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(test(kind) for test in _STRINGS):
            raise ValueError(f"column {name!r}: expected strings, found {kind}")
    return named


_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
            pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)  # fmt: skip


def _rows(source: pa.NativeFile, start: int, end: int, params: Parquet) -> Iterator[Row]:
    file, at = pq.ParquetFile(source), 0
    columns = _columns(file, params)
    for group in range(file.num_row_groups):
        after = at + file.metadata.row_group(group).num_rows
        if start <= at and after <= end:
            yield from _group_rows(source, file, group, at, after, columns, params)
        at = after


def _group_rows(source: pa.NativeFile, file: pq.ParquetFile, group: int, at: int, after: int, columns: list[str],
                params: Parquet) -> Iterator[Row]:  # fmt: skip
    try:
        for batch in file.iter_batches(BATCH_RECORDS, row_groups=[group], columns=columns):
            values = {name: batch[name].cast(_plain(batch[name].type)) for name in columns}
            for i in range(batch.num_rows):
                yield _row(at, {name: array[i] for name, array in values.items()}, params)
                at += 1
    except (OSError, pa.ArrowException) as error:
        _touch(source, file, group)
        for row in range(at, after):
            yield quarantined(row, "broken_row_group", f"row group {group}: {error}")


def _touch(source: pa.NativeFile, file: pq.ParquetFile, group: int) -> None:
    """Raise OSError if it is the storage that fails: that may pass, and must not quarantine good rows."""
    group_data = file.metadata.row_group(group)
    for number in range(group_data.num_columns):
        column = group_data.column(number)
        start = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at is not None)
        for at in range(start, start + column.total_compressed_size, BLOCK):
            source.read_at(min(BLOCK, start + column.total_compressed_size - at), at)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _row(number: int, values: dict[str, pa.Scalar], params: Parquet) -> Row:
    url = _decoded(values.get(params.url))
    sizes = [scalar.as_buffer().size for scalar in values.values() if scalar.is_valid]
    if max(sizes, default=0) > params.max_record_bytes:
        return dropped(number, "too_large", url=url if isinstance(url, str) else None)
    text = values.get(params.text)
    try:
        body = None if text is None or not text.is_valid else str(text.as_buffer(), "utf-8")
    except UnicodeDecodeError as error:
        return quarantined(number, "bad_utf8", f"text: {error}", text.as_buffer().to_pybytes())  # type: ignore[union-attr]
    page = values.get(params.html)
    html = None if page is None or not page.is_valid else page.as_buffer().to_pybytes()
    row = text_row(number, body, html, url)
    if row.get("html") is not None and pa.types.is_string(page.type):  # type: ignore[union-attr]
        row["charset"] = "utf-8"  # Parquet says so
    return row


def _decoded(scalar: pa.Scalar | None) -> str | None:
    return None if scalar is None or not scalar.is_valid else str(scalar.as_buffer(), "utf-8", "replace")
