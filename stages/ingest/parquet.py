"""`parquet`: a row is a document; its parts come from the columns that the manifest names.

Slices are whole row groups, written as row numbers, and the record offset is the row number. A row group that cannot
be read gives a quarantined row for each of its rows, for the footer tells how many they are. Cost: the named columns
are read, 256 rows at a time, and taken whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage import source_format
from stages.ingest.records import BATCH_RECORDS, BLOCK, batches, cut, quarantined
from stages.ingest.table_rows import table_rows
from stages.ingest.tables import TableParams, columns, ranges

ROWS_PER_BYTE = 1000  # each row of a broken row group is a row of the ledger: a footer must not invent them


class Parquet(TableParams):
    """A Parquet source. It needs a text or an HTML column; a missing URL column gives null URLs."""


def split(fs, path: str, size: int, params: Parquet) -> list[tuple[int, int]]:
    """Row ranges that end where row groups end. Raises ValueError when the columns are not there."""
    with fs.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        columns(file.schema_arrow, params)
        metadata = file.metadata
        if metadata.num_rows > ROWS_PER_BYTE * source.size():
            raise ValueError(f"expected a footer to believe, found {metadata.num_rows} rows in {source.size()} bytes")
        return ranges((metadata.row_group(i).num_rows for i in range(file.num_row_groups)), params.slice_rows)


@source_format("parquet", Parquet, split=split, version=4)
def read(fs, path: str, start: int, end: int, params: Parquet) -> Iterator[pa.RecordBatch]:
    """Rows [start, end) of the file."""
    with fs.open_input_file(path) as source:
        yield from cut(_rows(source, start, end, params))


def _rows(source: pa.NativeFile, start: int, end: int, params: Parquet) -> Iterator[pa.RecordBatch]:
    file, at = pq.ParquetFile(source), 0
    named = columns(file.schema_arrow, params)
    for group in range(file.num_row_groups):
        after = at + file.metadata.row_group(group).num_rows
        if start <= at and after <= end:
            yield from _group_rows(source, file, group, at, after, named, params)
        at = after


def _group_rows(source: pa.NativeFile, file: pq.ParquetFile, group: int, at: int, after: int, named: dict[str, str],
                params: Parquet) -> Iterator[pa.RecordBatch]:  # fmt: skip
    try:
        wanted = sorted(set(named.values()))
        for batch in file.iter_batches(BATCH_RECORDS, row_groups=[group], columns=wanted):
            yield from table_rows(batch, at, named, params)
            at += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        _touch(source, file, group)
        reason = f"row group {group}: {error}"
        yield from batches(quarantined(number, "broken_row_group", reason) for number in range(at, after))


def _touch(source: pa.NativeFile, file: pq.ParquetFile, group: int) -> None:
    """Raise OSError if it is the storage that fails: that may pass, and must not quarantine good rows."""
    group_data = file.metadata.row_group(group)
    for number in range(group_data.num_columns):
        column = group_data.column(number)
        start = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at is not None)
        for at in range(start, start + column.total_compressed_size, BLOCK):
            source.read_at(min(BLOCK, start + column.total_compressed_size - at), at)
