"""`warc`: responses of a web crawl (WARC, WET; plain, gzip, zstd, lz4), each with a fate.

Responses, resources, conversions and revisits are input records; requests, metadata and warcinfo are not. A page is
kept when its status and content type are wanted; everything else is dropped with a reason, and what cannot be read is
quarantined. Bodies are freed of transfer and content encodings here, because FastWARC 2.0.1 stops in silence at the
first response that is both chunked and compressed when asked to decode both. Cost: about 1.2 times inflating the file.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import pyarrow as pa
import pyarrow.fs as pafs
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from pydantic import Field

from pipeline.stage import DROPPED, INGEST_SCHEMA, KEPT, QUARANTINED, Params, source_format
from stages.warc_split import Broken, Record, is_gzip, records

RAW_CAP = 1 << 16
BATCH_RECORDS = 256
BATCH_BYTES = 16 << 20
DOCUMENTS = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion | WarcRecordType.revisit
HTML_TYPES = ("text/html", "application/xhtml+xml")


class WarcParams(Params):
    slice_bytes: int = Field(8 << 20, ge=1, description="compressed bytes of a slice, the unit of work")
    max_record_bytes: int = Field(32 << 20, ge=1024, description="longer records, and longer bodies, are quarantined")
    statuses: tuple[int, ...] = Field((200,), description="HTTP statuses that are kept")


class _Bad(Exception):
    """A record that cannot be used: (reason, one line)."""


def split(fs: pafs.FileSystem, path: str, size: int, params: WarcParams) -> list[tuple[int, int]]:
    """Byte ranges of a gzip file; one range for anything else. Empty files have one empty range."""
    if size == 0 or not is_gzip(fs, path):
        return [(0, size)]
    return [(at, min(at + params.slice_bytes, size)) for at in range(0, size, params.slice_bytes)]


@source_format("warc", WarcParams, split=split)
def read(fs: pafs.FileSystem, path: str, start: int, end: int, params: WarcParams) -> Iterator[pa.RecordBatch]:
    """Batches of at most 256 records or 16 MB of bodies, cut by content alone."""
    rows: list[dict[str, Any]] = []
    size = 0
    for item in records(fs, path, start, end, params.max_record_bytes, RAW_CAP):
        row = _row(item, params)
        if row is None:
            continue
        rows.append(row)
        size += len(row.get("html") or b"") + len(row.get("text") or "")
        if len(rows) == BATCH_RECORDS or size >= BATCH_BYTES:
            yield _batch(rows)
            rows, size = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in INGEST_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=INGEST_SCHEMA)


def _row(item: Record | Broken, params: WarcParams) -> dict[str, Any] | None:
    if isinstance(item, Broken):
        return {"record_offset": item.offset, "verdict": QUARANTINED, "reason": item.reason, "error": item.error,
                "raw": item.raw}  # fmt: skip
    try:
        archive = ArchiveIterator(io.BytesIO(item.data), parse_http=True, auto_decode="none", stream_detect=False)
        record = next(iter(archive), None)
        if record is None:
            raise _Bad("bad_header", "expected a WARC record, found none")
        if not record.record_type & DOCUMENTS:
            return None
        return {"record_offset": item.offset, **_document(record, params)}
    except _Bad as bad:
        reason, error = bad.args
    except (ValueError, OSError) as other:
        reason, error = "bad_record", f"{type(other).__name__}: {other}".splitlines()[0][:300]
    return {"record_offset": item.offset, "url": _target(item.data), "verdict": QUARANTINED, "reason": reason,
            "error": error, "raw": item.data[:RAW_CAP]}  # fmt: skip


def _target(data: bytes) -> str | None:
    for line in data[: 1 << 14].split(b"\n"):
        if line.lower().startswith(b"warc-target-uri:"):
            return _clean(line.split(b":", 1)[1].decode("utf-8", "replace"))
    return None


def _clean(url: str | None) -> str | None:
    """A URL as valid UTF-8 without control characters; wget writes `<...>` around it."""
    if not url:
        return None
    text = url.strip().encode("utf-8", "replace").decode("utf-8")
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    return "".join(c for c in text if c >= " " and c != "\x7f")


def _document(record: WarcRecord, params: WarcParams) -> dict[str, Any]:
    row: dict[str, Any] = {"url": _clean(record.headers.get("WARC-Target-URI")), "verdict": KEPT}
    if record.record_type == WarcRecordType.revisit:
        return {**row, "verdict": DROPPED, "reason": "revisit"}
    if record.record_type == WarcRecordType.response and record.http_headers is None:
        if not (row["url"] or "").startswith("http"):  # dns: and the like
            return {**row, "verdict": DROPPED, "reason": "not_http"}
        raise _Bad("bad_http", "expected an HTTP response, found none")
    headers: dict[str, str] = {}
    if record.http_headers is not None:
        headers = {name.lower(): value for name, value in record.http_headers.astuples()}
        row["http_status"] = record.http_headers.status_code
        row["content_type"] = _media_type(headers.get("content-type"))
        row["charset"] = _charset(headers.get("content-type"))
        if row["http_status"] not in params.statuses:
            return {**row, "verdict": DROPPED, "reason": "http_status"}
    else:
        row["content_type"] = _media_type(record.headers.get("Content-Type"))
    is_text = record.record_type == WarcRecordType.conversion and row["content_type"] == "text/plain"
    if not is_text and row["content_type"] not in HTML_TYPES:
        return {**row, "verdict": DROPPED, "reason": "content_type"}
    body = record.reader.read()
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunk(body, params.max_record_bytes)
    for encoding in reversed([e.strip().lower() for e in headers.get("content-encoding", "").split(",") if e.strip()]):
        body = _decode(body, encoding, params.max_record_bytes)
    if not body:
        return {**row, "verdict": DROPPED, "reason": "empty_body"}
    if is_text:
        return {**row, "text": body.decode("utf-8", "replace")}
    return {**row, "html": body}


def _media_type(header: str | None) -> str | None:
    return header.split(";")[0].strip().lower().encode("utf-8", "replace").decode() or None if header else None


def _charset(header: str | None) -> str | None:
    for part in (header or "").split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'").encode("utf-8", "replace").decode() or None
    return None


def _dechunk(body: bytes, max_bytes: int) -> bytes:
    """Chunked transfer coding (RFC 9112, 7.1). A body without any chunk framing was decoded by the crawler already."""
    parts, at = [], 0
    while True:
        line_end = body.find(b"\n", at, at + 1024)
        size_text = body[at:line_end].split(b";")[0].strip() if line_end >= 0 else b""
        try:
            size = int(size_text, 16)
        except ValueError:
            if at == 0 and body.lstrip()[:1] in (b"<", b"\x1f"):
                return body
            raise _Bad("bad_chunks", f"expected a chunk size, found {size_text[:20]!r} at byte {at}") from None
        if size == 0:
            return b"".join(parts)
        chunk = body[line_end + 1 : line_end + 1 + size]
        if size < 0 or len(chunk) < size:
            raise _Bad("bad_chunks", f"expected a chunk of {size} bytes, found {len(chunk)}")
        parts.append(chunk)
        at = line_end + 1 + size
        at += 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] == b"\n" else 0


def _decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo one content coding, at most `max_bytes` long. Raises _Bad for a broken or unknown one."""
    try:
        if encoding in ("gzip", "x-gzip"):
            return _inflate(body, 31, max_bytes) if body[:2] == b"\x1f\x8b" else body
        if encoding == "deflate":
            return _inflate(body, 15 if body[:1] == b"\x78" else -15, max_bytes)
        if encoding == "br":
            decoder, out = brotli.Decompressor(), bytearray()
            for at in range(0, len(body), 1 << 12):
                out += decoder.process(body[at : at + (1 << 12)])
                if len(out) > max_bytes:
                    raise _Bad("too_large", f"expected a body of at most {max_bytes} bytes, found more")
            return bytes(out)
        if encoding == "zstd":
            with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
                data = stream.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise _Bad("too_large", f"expected a body of at most {max_bytes} bytes, found more")
            return data
    except (zlib.error, brotli.error, OSError) as error:
        raise _Bad("bad_encoding", f"expected {encoding} data, found: {error}") from None
    if encoding in ("identity", "none", "utf-8"):
        return body
    raise _Bad("bad_encoding", f"expected gzip, deflate, br or zstd, found {encoding[:40]!r}")


def _inflate(body: bytes, window: int, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(window)
    data = inflate.decompress(body, max_bytes + 1)
    if len(data) > max_bytes:
        raise _Bad("too_large", f"expected a body of at most {max_bytes} bytes, found more")
    if not inflate.eof:
        raise _Bad("bad_encoding", "expected a complete compressed body, found one that is cut off")
    return data
