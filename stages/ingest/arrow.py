"""`arrow`: Arrow IPC streams and files, as Hugging Face `datasets` caches them and `save_to_disk` writes them.

A row is a document, and its number the record offset, as in `parquet`. Slices are whole record batches. Only the
messages' headers are read to find them (a stream has no index; a file is a stream between two magics), so any slice
can be read without the ones before it. Offsets are validated before a value is touched: a hostile file must not make
Arrow read outside its buffers. A batch that cannot be read gives a quarantined row for each of its rows.

Cost: one read of some hundred bytes for each batch of the file, and one batch in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import source_format
from stages.ingest.records import BATCH_RECORDS, Broken, batches, cut, quarantined
from stages.ingest.table_rows import table_rows
from stages.ingest.tables import TableParams, columns, ranges

_MAGIC, _MARK, _END = b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # MessageHeader in the format's Message.fbs
HEADER_BYTES = 64 << 20
ROWS_PER_BYTE = 8  # a batch that claims more is not believed


class Arrow(TableParams):
    """An Arrow IPC source. It needs a text or an HTML column; a missing URL column gives null URLs."""


class Message(NamedTuple):
    """Bytes [at, end) of the file; `rows` of a record batch. `broken` where the file ends or errs inside."""

    kind: int
    at: int
    end: int
    rows: int = 0
    broken: str | None = None


def split(fs, path: str, size: int, params: Arrow) -> list[tuple[int, int]]:
    """Row ranges that end where record batches end. Raises ValueError when the columns are not there."""
    with fs.open_input_file(path) as source:
        messages = list(_messages(source))
        columns(_schema(source, messages), params)
        counts = [max(1, message.rows) if message.broken else message.rows for message in messages]
        return ranges(counts, params.slice_rows)


@source_format("arrow", Arrow, split=split, version=3)
def read(fs, path: str, start: int, end: int, params: Arrow) -> Iterator[pa.RecordBatch]:
    """Rows [start, end) of the file."""
    with fs.open_input_file(path) as source:
        yield from cut(_rows(source, start, end, params))


def _messages(source: pa.NativeFile) -> Iterator[Message]:
    """The messages of the stream, to its end or to the first that is broken."""
    size = source.size()
    at = len(_MAGIC) if source.read_at(8, 0) == _MAGIC else 0
    while at < size:
        prefix = source.read_at(8, at)
        if prefix == _END:
            return
        length = int.from_bytes(prefix[4:], "little", signed=True)
        if len(prefix) < 8 or prefix[:4] != _MARK or not 0 < length <= HEADER_BYTES:
            yield Message(0, at, size, 0, f"expected an Arrow IPC message at {at}, found {prefix!r}")
            return
        try:
            kind, body, count = _header(source.read_at(length, at + 8))
        except struct.error as error:
            yield Message(0, at, size, 0, f"Arrow IPC message at {at}: {error}")
            return
        end = at + 8 + length + body
        if body < 0 or count < 0 or end > size:
            message = f"Arrow IPC message at {at}: expected {body} bytes, found {size - at - 8 - length}"
            yield Message(kind, at, size, max(0, count) if count <= ROWS_PER_BYTE * (size - at) else 0, message)
            return
        if count > ROWS_PER_BYTE * (end - at):
            yield Message(kind, at, size, 0, f"Arrow IPC message at {at}: {count} rows in {end - at} bytes")
            return
        yield Message(kind, at, end, count)
        at = end


def _header(data: bytes) -> tuple[int, int, int]:
    """(kind, bytes of the body, rows of a record batch) of a Message flatbuffer. Raises struct.error."""

    def field(table: int, number: int) -> int:
        """Where a field of a table lies; 0 where it has its default."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        if vtable < 0 or 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
        return table + offset if offset else 0

    root = struct.unpack_from("<I", data, 0)[0]
    kind_at, header_at, body_at = (field(root, number) for number in (1, 2, 3))
    kind = struct.unpack_from("<B", data, kind_at)[0] if kind_at else 0
    body = struct.unpack_from("<q", data, body_at)[0] if body_at else 0
    count = 0
    if kind == _BATCH and header_at:
        table = header_at + struct.unpack_from("<I", data, header_at)[0]
        count_at = field(table, 0)
        count = struct.unpack_from("<q", data, count_at)[0] if count_at else 0
    return kind, body, count


def _schema(source: pa.NativeFile, messages: list[Message]) -> pa.Schema:
    if not messages or messages[0].kind != _SCHEMA or messages[0].broken:
        found = messages[0].broken if messages and messages[0].broken else "no message"
        raise ValueError(f"expected an Arrow IPC stream or file that begins with a schema, found: {found}")
    try:
        schema = pa.ipc.read_schema(pa.BufferReader(_bytes(source, messages[0])))
        _ = schema.names  # decoded only now: a name that is no UTF-8 belongs to this error
        return schema
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"expected an Arrow IPC schema: {error}") from None


def _bytes(source: pa.NativeFile, message: Message) -> bytes:
    return source.read_at(message.end - message.at, message.at)


def _rows(source: pa.NativeFile, start: int, end: int, params: Arrow) -> Iterator[pa.RecordBatch]:
    messages, at = list(_messages(source)), 0
    named = columns(_schema(source, messages), params)
    prelude = [messages[0]]
    for number, message in enumerate(messages):
        count = max(1, message.rows) if message.broken else message.rows
        if start <= at < end:
            if message.broken:
                reason = message.broken
                yield from batches(quarantined(row, "broken_batch", reason) for row in range(at, at + count))
            elif message.kind == _BATCH:
                data = b"".join(_bytes(source, one) for one in [*prelude, message])
                yield from _batch_rows(data, number, at, count, named, params)
        if message.kind == _DICTIONARY:
            prelude.append(message)
        at += count


def _batch_rows(
    data: bytes, number: int, at: int, count: int, named: dict[str, str], params: Arrow
) -> Iterator[pa.RecordBatch]:
    try:
        batch = _batch(data, named, count)
    except (Broken, OSError, pa.ArrowException) as error:
        reason = f"message {number}: {error}"
        yield from batches(quarantined(row, "broken_batch", reason) for row in range(at, at + count))
        return
    for first in range(0, count, BATCH_RECORDS):
        yield from table_rows(batch.slice(first, BATCH_RECORDS), at + first, named, params)


def _batch(data: bytes, named: dict[str, str], count: int) -> pa.RecordBatch:
    """The named columns of one batch, strings as the bytes that they are, with offsets that are safe to follow."""
    batch = pa.ipc.open_stream(pa.BufferReader(data)).read_next_batch()
    if batch.num_rows != count:
        raise Broken("broken_batch", f"expected {count} rows, found {batch.num_rows}")
    tops = sorted({name if name in batch.schema.names else name.split(".")[0] for name in named.values()})
    for name in tops:
        _check(batch[name])
    return batch.select(tops)


def _check(array: pa.Array) -> None:
    """Raise pa.ArrowInvalid where following the offsets of an array would leave its buffers; UTF-8 is left open."""
    array.validate()
    kind = array.type
    if pa.types.is_string(kind):
        array = array.view(pa.binary())
    elif pa.types.is_large_string(kind):
        array = array.view(pa.large_binary())
    elif pa.types.is_date64(kind):  # the rest of a day is no reason to refuse a batch
        array = array.view(pa.int64())
    elif pa.types.is_dictionary(kind):
        _check(array.dictionary)
        array.indices.validate(full=True)
        bounds = pc.min_max(array.indices).as_py()
        if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(array.dictionary):
            raise Broken("broken_batch", f"expected indices below {len(array.dictionary)}, found {bounds}")
        return
    array.validate(full=True)
