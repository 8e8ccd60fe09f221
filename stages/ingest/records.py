"""What every reader shares: rows of INGEST_SCHEMA gathered into batches, and strings made safe for Arrow.

A batch ends at 256 records or 16 MB of payload, whichever comes first, counted from the start of the slice: its
boundaries depend on the slice alone. Cost: one Python list append for each column of each record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import DROPPED, INGEST_SCHEMA, KEPT, QUARANTINED

BATCH_RECORDS = 256
BATCH_BYTES = 16 << 20
RAW_BYTES = 1 << 20  # of a quarantined record, the most that a reader keeps; the engine stores less
URL_CHARS = 8192
LABEL_CHARS = 256

BLOCK = 1 << 20

Row = dict[str, object]
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Broken(Exception):
    """Input that cannot be read further from here. `reason` is its short class."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Storage:
    """The read method of a file, which remembers whether it was the storage that failed."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self.closed = file, False
        self.failed = False

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError:
            self.failed = True
            raise

    def close(self) -> None:
        """The file is closed by who opened it."""


def decompressed(file: pa.NativeFile, codec: str, block: int = BLOCK) -> Iterator[bytes]:
    """Blocks of the whole stream (gzip, lz4 or zstd, any number of frames).

    Raises Broken where the data is at fault; an OSError of the storage stays what it is, for it may pass.
    """
    file.seek(0)
    storage = _Storage(file)
    stream = pa.CompressedInputStream(pa.PythonFile(storage, "r"), codec)
    while True:
        try:
            data = stream.read(block)
        except (OSError, pa.ArrowException) as error:
            if storage.failed:
                raise
            raise Broken(f"broken_{codec}", str(error)) from None
        if not data:
            return
        yield data


def clean(value: bytes | str | None, limit: int = URL_CHARS) -> str | None:
    """A header value or URL that UTF-8 and a terminal can carry: U+FFFD for broken bytes, controls, surrogates."""
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return _CONTROL.sub("�", text[:limit])


def kept(offset: int, **fields: object) -> Row:
    return {"record_offset": offset, "verdict": KEPT, **fields}


def dropped(offset: int, reason: str, **fields: object) -> Row:
    return {"record_offset": offset, "verdict": DROPPED, "reason": reason, **fields}


def quarantined(offset: int, reason: str, error: str, raw: bytes | str | None = None, **fields: object) -> Row:
    """A row for a broken record: `reason` is the short class, `error` one line that says what was found."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogatepass")
    line = clean(" ".join(error.split()), 500)
    return {"record_offset": offset, "verdict": QUARANTINED, "reason": reason, "error": line,
            "raw": None if raw is None else bytes(raw[:RAW_BYTES]), **fields}  # fmt: skip


def text_row(offset: int, text: object, html: object, url: object, date: int | None, **labels: object) -> Row:
    """The row of a record that comes from a table, with the same checks for JSON lines, Parquet and Arrow.

    Quarantined: neither text nor HTML, a value that is no string, NUL characters or lone surrogates in the text, a
    label (kind, licence) that is neither a string nor a list of strings. HTML may be bytes; NULs in it are left to
    the extractor, as browsers do. `date` is in milliseconds since 1970.
    """
    fields: dict[str, Any] = {"url": clean(url) if isinstance(url, str | bytes) else None, "date": date}
    if text is None and html is None:
        return quarantined(offset, "no_text", "expected a text or an html value, found neither", **fields)
    if text is not None and not isinstance(text, str):
        return quarantined(offset, "bad_type", f"text: expected a string, found {type(text).__name__}", repr(text))
    if html is not None and not isinstance(html, str | bytes):
        return quarantined(offset, "bad_type", f"html: expected a string, found {type(html).__name__}", repr(html))
    try:
        fields.update((name, label(value)) for name, value in labels.items())
    except TypeError as error:
        return quarantined(offset, "bad_type", f"{', '.join(labels)}: {error}", repr(labels), **fields)
    if text is not None and "\0" in text:
        return quarantined(offset, "nul_bytes", f"text: {text.count(chr(0))} NUL characters", text, **fields)
    try:
        page = html.encode() if isinstance(html, str) else html
        size = len(text.encode()) if text is not None else len(page or b"")
    except UnicodeEncodeError as error:
        raw = text if text is not None else html
        return quarantined(offset, "lone_surrogate", f"not valid Unicode: {error}", raw, **fields)  # type: ignore[arg-type]
    if not size:
        return dropped(offset, "empty_body", **fields)
    charset = "utf-8" if isinstance(html, str) else None
    return kept(offset, text=text, html=None if text is not None else page, charset=charset, **fields)


def label(value: Any) -> str | None:
    """A kind or licence: one string, or several joined by `, `; null where it is empty. Raises TypeError."""
    if value is None:
        return None
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str | bytes) for part in parts):
        raise TypeError(f"expected a string or a list of strings, found {type(value).__name__}")
    return ", ".join(filter(None, ((clean(part, LABEL_CHARS) or "").strip() for part in parts)))[:LABEL_CHARS] or None


def batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Record batches of INGEST_SCHEMA, in the order of the rows."""
    pending: list[Row] = []
    size = 0
    for row in rows:
        weight = len(row.get("html") or row.get("text") or row.get("raw") or b"")  # type: ignore[arg-type]
        if pending and (len(pending) >= BATCH_RECORDS or size + weight > BATCH_BYTES):
            yield row_batch(pending)
            pending, size = [], 0
        pending.append(row)
        size += weight
    if pending:
        yield row_batch(pending)


def row_batch(rows: list[Row]) -> pa.RecordBatch:
    """One record batch of INGEST_SCHEMA."""
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in INGEST_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=INGEST_SCHEMA)


def cut(found: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that end as those of `batches` do, however they come; payload counts in bytes."""
    pending: list[pa.RecordBatch] = []
    count = size = 0
    for batch in found:
        payload = pc.coalesce(*(pc.binary_length(batch[name]) for name in ("html", "text", "raw")), pa.scalar(0))
        total = np.concatenate([[0], np.cumsum(np.asarray(payload), dtype=np.int64)])
        start = 0
        while start < batch.num_rows:
            room = int(np.searchsorted(total, total[start] + BATCH_BYTES - size, "right")) - 1
            end = min(batch.num_rows, start + BATCH_RECORDS - count, room)
            if end <= start and pending:
                yield _joined(pending)
                pending, count, size = [], 0, 0
                continue
            end = max(end, start + 1)  # one record above the limit is a batch of its own
            pending.append(batch.slice(start, end - start))
            count, size, start = count + end - start, size + int(total[end] - total[start]), end
    if pending:
        yield _joined(pending)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
