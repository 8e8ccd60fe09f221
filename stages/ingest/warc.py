"""`warc`: WARC, WET and WAT files, plain or compressed, cut into slices that begin and end at records.

Rows are made of response, resource, conversion, revisit and continuation records; request, warcinfo and metadata
records are no documents. A record that is not wanted is a dropped row with its reason (http_status, content_type,
empty_body, too_large, revisit, truncated, record_type), a record that cannot be read is a quarantined row with the
bytes at hand, and reading goes on behind it: no byte of a file disappears without a row.

Record offsets are those of the record's gzip member; records that share a member count up from its offset by one
(see framing.py). In a file without compression it is the record's own offset, in lz4 and zstd files its offset in
the decompressed stream. Record-compressed gzip is cut into slices; every other file is one slice.

Trade-off: members are inflated and records framed here, where an error costs one record, and fastwarc parses the
headers from memory. Cost: 0.11 ms of CPU for a page of 20 kB, twice that of a bare fastwarc loop with the same
decoding, whose inflate is faster than zlib's; extracting the page costs 25 times that.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pyarrow as pa
from fastwarc.warc import WarcRecord
from pydantic import Field

from pipeline.stage import Params, source_format
from stages.ingest.framing import Frame, Framer
from stages.ingest.gzip_members import Group, Members, Window
from stages.ingest.http_body import BodyError, decode_body
from stages.ingest.records import RAW_BYTES, Row, batches, clean, decompressed, dropped, kept, quarantined

_GZIP, _CODECS = b"\x1f\x8b", {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
_TYPE = re.compile(rb"\nWARC-Type[ \t]*:[ \t]*([A-Za-z]*)", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]{1,64})", re.IGNORECASE)
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_NO_DOCUMENT = {b"request", b"warcinfo", b"metadata"}
PLAIN_STEP = 64 << 10


class Warc(Params):
    """A WARC source. The defaults read HTML pages of status 200, and text of WET files."""

    slice_bytes: int = Field(16 << 20, ge=1, description="bytes of a slice of a gzip file, compressed")
    max_record_bytes: int = Field(
        16 << 20, ge=1024, le=1 << 30, description="larger records or pages, stored or decoded, are dropped: too_large"
    )
    statuses: tuple[int, ...] = Field((200,), description="HTTP statuses kept; others are dropped: http_status")
    content_types: tuple[str, ...] = Field(
        ("text/html", "application/xhtml+xml"), description="types kept; others are dropped: content_type"
    )


def split(fs, path: str, size: int, params: Warc) -> list[tuple[int, int]]:
    """Equal byte ranges of a gzip file; one range for any other file."""
    with fs.open_input_file(path) as file:
        if file.read(2) != _GZIP:
            return [(0, size)]
    return [(start, min(start + params.slice_bytes, size)) for start in range(0, size, params.slice_bytes)]


@source_format("warc", Warc, split=split)
def read(fs, path: str, start: int, end: int, params: Warc) -> Iterator[pa.RecordBatch]:
    """Rows of the records that begin in [start, end)."""
    with fs.open_input_file(path) as file:
        yield from batches(_rows(file, start, end, params))


def _rows(file, start: int, end: int, params: Warc) -> Iterator[Row]:
    size = file.size()
    if size == 0:
        yield quarantined(0, "empty_file", "expected WARC records, found a file of 0 bytes")
        return
    magic = file.read_at(4, 0)
    frames = _gzip_frames(file, size, start, end, params.max_record_bytes)
    if magic[:2] != _GZIP:
        if start > 0:  # the first slice has it all
            return
        frames = _stream_frames(file, _CODECS.get(magic), params.max_record_bytes)
    for frame in frames:
        row = document(frame, params)
        if row is not None:
            yield row


def _stream_frames(file, codec: str | None, limit: int) -> Iterator[Frame]:
    file.seek(0)
    chunks = decompressed(file, codec, PLAIN_STEP) if codec else iter(lambda: file.read(PLAIN_STEP), b"")
    return iter(Framer(chunks, lambda position: position, lambda: None, limit))


def _gzip_frames(file, size: int, start: int, end: int, limit: int) -> Iterator[Frame]:
    members = Members(Window(file, size))
    at, member = start, members.open(0) if start == 0 else members.scan(start, end)
    if start > 0 and member is None:
        return  # no record begins here
    while True:
        if member is None:  # neither a member nor the end: bytes that belong to the slice of the record before
            following = members.scan(at + 1, size)
            stop = following.at if following else size
            found = bytes(members.window.view(at, min(stop - at, RAW_BYTES)))
            message = f"expected a gzip member at {at}, found {found[:16]!r}; {stop - at} bytes skipped"
            yield Frame(at, found, "no_gzip_member", message)
        else:
            group = Group(members, member)
            yield from Framer(iter(group), group.offset_of, group.read_up_to, limit)
            if group.end < 0:
                group.abandon()
            following, stop = group.next, group.end
        at, member = stop, following
        if at >= size or (member is not None and member.is_start and at >= end):
            return


def document(frame: Frame, params: Warc) -> Row | None:
    """The row of a frame, or None where the record is no document."""
    offset, data, reason, message = frame
    kind = _TYPE.search(data, 0, data.find(b"\r\n\r\n") + 1 or 65536)
    if reason is None and kind is not None and kind[1].lower() in _NO_DOCUMENT:
        return None
    if reason is not None:
        fields = _fields_of_broken(data)
        if reason == "too_large":
            return dropped(offset, reason, **fields) if kind and kind[1].lower() not in _NO_DOCUMENT else None
        return quarantined(offset, reason, message, data, **fields)
    try:
        record = WarcRecord.from_reader(io.BytesIO(data), quirks_mode=True)
    except (OSError, ValueError) as error:
        return quarantined(offset, "bad_header", str(error), data)
    if kind is None:
        return quarantined(offset, "bad_header", "expected a WARC-Type, found none", data)
    return _row(offset, record, kind[1].lower(), data, params)


def _fields_of_broken(data: bytes) -> dict[str, object]:
    """The URL that a broken record still tells."""
    match = re.search(rb"\nWARC-Target-URI[ \t]*:[ \t]*([^\r\n]{1,8192})\r?\n", data[:65536], re.IGNORECASE)
    return {"url": _url(match[1])} if match else {}


def _url(value: bytes | None) -> str | None:
    """wget, following an example in the standard's draft, writes `<http://...>`."""
    value = value.strip() if value else None
    return clean(value[1:-1] if value and value.startswith(b"<") and value.endswith(b">") else value)


def _row(offset: int, record: WarcRecord, kind: bytes, data: bytes, params: Warc) -> Row:
    headers = record.headers
    fields: dict[str, object] = {"url": _url(headers.get_bytes(b"WARC-Target-URI"))}
    if kind not in (b"response", b"resource", b"conversion"):
        return dropped(offset, "revisit" if kind == b"revisit" else "record_type", **fields)
    stated = headers.get_bytes(b"Content-Type")
    transfer = coding = ""
    start = len(data) - record.content_length
    if kind == b"response" and data.startswith(b"HTTP/", start) and (stated is None or b"http" in stated.lower()):
        record.is_http = True
        try:
            record.parse_http(auto_decode="none", quirks_mode=True, max_header_len=256 << 10)
        except (OSError, ValueError) as error:
            return quarantined(offset, "bad_http", str(error), data, **fields)
        http = record.http_headers
        status, stated = http.status_code, http.get_bytes(b"Content-Type")
        if status is None:
            line = clean(http.status_line_bytes, 60)
            return quarantined(offset, "bad_http", f"expected a status code, found {line!r}", data, **fields)
        fields["http_status"] = status if status < 1 << 15 else None
        transfer = b",".join(http.get_bytes_multiple(b"Transfer-Encoding")).decode("latin-1").lower()
        coding = b",".join(http.get_bytes_multiple(b"Content-Encoding")).decode("latin-1").lower()
        if status not in params.statuses:
            fields["content_type"] = _media_type(stated)
            return dropped(offset, "http_status", **fields)
    elif kind == b"response" and (stated is None or b"application/http" in stated.lower()) and start < len(data):
        return quarantined(offset, "bad_http", f"expected `HTTP/`, found {data[start : start + 20]!r}", data, **fields)
    media = fields["content_type"] = _media_type(stated)
    if kind == b"conversion" and media == "text/plain":
        return _plain_text(offset, record.reader.read(), data, fields)
    if media is not None and media not in params.content_types:
        return dropped(offset, "content_type", **fields)
    charset = _CHARSET.search(stated.decode("latin-1")) if stated else None
    fields["charset"] = clean(charset[1]) if charset else None
    body = record.reader.read()
    try:
        body = decode_body(body, transfer, coding, params.max_record_bytes)
    except BodyError as error:
        if error.reason == "too_large":
            return dropped(offset, "too_large", **fields)
        if headers.get_bytes(b"WARC-Truncated"):  # the crawler cut it off and says so: no error of the file
            return dropped(offset, "truncated", **fields)
        return quarantined(offset, error.reason, str(error), data, **fields)
    if not body:
        return dropped(offset, "empty_body", **fields)
    if media is None and not _HTML.search(body, 0, 1024):  # no type stated: HTML is what looks like it
        return dropped(offset, "content_type", **fields)
    return kept(offset, html=body, **fields)


def _media_type(value: bytes | None) -> str | None:
    media = clean(value.split(b";")[0].strip().lower(), 128) if value else None
    return media or None


def _plain_text(offset: int, body: bytes, data: bytes, fields: dict[str, object]) -> Row:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        return quarantined(offset, "bad_utf8", str(error), data, **fields)
    if "\0" in text:
        return quarantined(offset, "nul_bytes", f"{text.count(chr(0))} NUL characters", data, **fields)
    return kept(offset, text=text, **fields) if text.strip() else dropped(offset, "empty_body", **fields)
