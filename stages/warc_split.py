"""Cutting WARC bytes into records, whatever is wrong with some of them.

A gzip file of one member a record (the WARC norm) can be entered anywhere: a slice starts at the first member at or
after its first byte whose data begins with `WARC/`, and owns the members that start before its end. So slices of any
size give the same records. Other files (plain, one big gzip member, zstd, lz4) are one slice, read as a stream. What
cannot be read is not skipped in silence: it comes out as `Broken`, and reading goes on at the next record.

Trade-off: records are framed here, in Python around zlib, so that every byte has an owner; parsing is left to FastWARC.
Cost: about 60 microseconds a record above inflating.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

GZIP_MAGIC = b"\x1f\x8b\x08"
RECORD = b"WARC/"
CHUNK = 1 << 16
MAX_HEADER = 1 << 16  # bytes of WARC headers
STREAM_MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


@dataclass(frozen=True)
class Record:
    """One record: where it is, and its bytes from `WARC/` to the end of its block."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Broken:
    """Bytes that are no readable record: a short reason, one line of what was wrong, and the bytes at hand."""

    offset: int
    reason: str
    error: str
    raw: bytes


def is_gzip(fs: pafs.FileSystem, path: str) -> bool:
    with fs.open_input_file(path) as stream:
        return stream.read(3) == GZIP_MAGIC


def records(
    fs: pafs.FileSystem, path: str, start: int, end: int, max_bytes: int, raw_cap: int
) -> Iterator[Record | Broken]:
    """Records of a slice, in order. `max_bytes` bounds the memory for one; a longer one comes out as `Broken`."""
    with fs.open_input_file(path) as stream:
        head = stream.read_at(4, 0)
        if head[:3] == GZIP_MAGIC:
            yield from _members(stream, start, end, max_bytes, raw_cap)
        elif head in STREAM_MAGIC:
            stream.seek(0)
            with pa.CompressedInputStream(stream, STREAM_MAGIC[head]) as inflated:
                yield from _frame(_chunks(inflated), 0, max_bytes, raw_cap, position=lambda k, offset: offset)
        else:
            stream.seek(0)
            yield from _frame(_chunks(stream), 0, max_bytes, raw_cap, position=lambda k, offset: offset)


def _chunks(stream: pa.NativeFile) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK * 4):
            yield chunk
    except OSError as error:
        raise _Torn(str(error).splitlines()[0]) from None


class _Torn(Exception):
    """A compressed stream that ends or breaks in the middle."""


def _find_member(stream: pa.NativeFile, at: int, size: int) -> int:
    """Offset of the first gzip member at or after `at` that holds a record; `size` when there is none."""
    overlap = len(GZIP_MAGIC) - 1
    while at < size:
        block = stream.read_at(min(1 << 20, size - at), at)
        found = block.find(GZIP_MAGIC)
        while found >= 0:
            try:
                head = zlib.decompressobj(31).decompress(stream.read_at(2048, at + found), 64)
            except zlib.error:
                head = b""
            if head.startswith(RECORD):
                return at + found
            found = block.find(GZIP_MAGIC, found + 1)
        if at + len(block) >= size:
            break
        at += len(block) - overlap
    return size


def _members(stream: pa.NativeFile, start: int, end: int, max_bytes: int, raw_cap: int) -> Iterator[Record | Broken]:
    size = stream.size()
    at = start if start == 0 else _find_member(stream, start, size)
    while at < min(end, size):
        member = _Member(stream, at, size)
        count = 0
        failed: Broken | None = None
        for item in _frame(member.chunks(), at, max_bytes, raw_cap, position=lambda k, _offset, at=at: at + k):
            count += 1
            if isinstance(item, Broken):
                failed = item
            yield item
        if member.end is not None:
            after = member.end
            if after < size and stream.read_at(3, after) != GZIP_MAGIC:
                nearest = _find_member(stream, after, size)
                junk = stream.read_at(min(raw_cap, nearest - after), after)
                if junk.strip(b"\0\r\n"):
                    text = f"expected a gzip member, found {nearest - after} other bytes"
                    yield Broken(after, "not_gzip", text, junk)
                after = nearest
        else:
            after = _find_member(stream, at + 1, size)
            if failed is None and count == 0:
                text = "expected a gzip member with a record, found none"
                yield Broken(at, "broken_gzip", text, stream.read_at(raw_cap, at))
        at = after


class _Member:
    """One gzip member: its inflated chunks, and where it ended (None when it broke)."""

    def __init__(self, stream: pa.NativeFile, start: int, size: int) -> None:
        self._stream, self._start, self._size = stream, start, size
        self.end: int | None = None

    def chunks(self) -> Iterator[bytes]:
        inflate, at = zlib.decompressobj(31), self._start
        while not inflate.eof:
            block = self._stream.read_at(min(CHUNK, self._size - at), at)
            if not block:
                raise _Torn("the gzip member is cut off")
            at += len(block)
            try:
                data = inflate.decompress(block, 1 << 22)
                yield data
                while inflate.unconsumed_tail and not inflate.eof:
                    yield inflate.decompress(inflate.unconsumed_tail, 1 << 22)
            except zlib.error as error:
                raise _Torn(f"gzip: {error}") from None
        self.end = at - len(inflate.unused_data)


def _frame(chunks: Iterator[bytes], base: int, max_bytes: int, raw_cap: int, position) -> Iterator[Record | Broken]:
    """Cut a stream of inflated bytes into records by their Content-Length.

    `position(k, offset)` gives the offset of the k-th record: of the member plus k inside a gzip member (unique, as a
    record takes more than one byte), of the inflated stream elsewhere.
    """
    source = _Window(chunks)
    count, told = 0, False  # told: the break of the stream has been reported
    while True:
        source.skip_blank()
        if source.at_end():
            if source.torn and not told:
                yield Broken(position(count, source.offset), "broken_gzip", source.torn, b"")
            return
        offset = source.offset
        header = source.header()
        length = _content_length(header) if header.startswith(RECORD) else None
        if length is None:
            raw = source.peek(raw_cap)
            text = source.torn or "expected a WARC header with a Content-Length, found " + repr(raw[:40])
            yield Broken(position(count, offset), "broken_gzip" if source.torn else "bad_header", text, raw)
            source.skip_to_record()
        elif length > max_bytes:
            raw = source.peek(raw_cap)
            text = f"expected a record of at most {max_bytes} bytes, found {length}"
            yield Broken(position(count, offset), "too_large", text, raw)
            source.skip(len(header) + length)
        else:
            data = source.take(len(header) + length)
            if len(data) < len(header) + length:
                text = source.torn or f"expected {length} bytes of record, found {len(data) - len(header)}"
                yield Broken(position(count, offset), "truncated_record", text, data[:raw_cap])
            elif not source.blank_or_record():
                text = "expected the next record after Content-Length bytes, found other bytes"
                yield Broken(position(count, offset), "bad_length", text, data[:raw_cap])
                source.skip_to_record()
            else:
                yield Record(position(count, offset), data)
        count, told = count + 1, bool(source.torn)


def _content_length(header: bytes) -> int | None:
    for line in header.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.strip().lower() == b"content-length":
            text = value.strip()
            return int(text) if text.isdigit() and len(text) < 16 else None
    return None


class _Window:
    """A buffer over an iterator of chunks that remembers where it is and whether the stream broke."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._buffer, self._at = chunks, bytearray(), 0
        self.offset, self.torn = 0, ""

    def _more(self) -> bool:
        try:
            self._buffer += next(self._chunks)
            return True
        except StopIteration:
            return False
        except _Torn as error:
            self.torn = str(error)
            return False

    def _fill(self, count: int) -> None:
        while len(self._buffer) - self._at < count and self._more():
            pass

    def _advance(self, count: int) -> None:
        self._at += count
        self.offset += count
        if self._at > 1 << 20 or self._at == len(self._buffer):
            del self._buffer[: self._at]
            self._at = 0

    def peek(self, count: int) -> bytes:
        self._fill(count)
        return bytes(self._buffer[self._at : self._at + count])

    def at_end(self) -> bool:
        return not self.peek(1)

    def take(self, count: int) -> bytes:
        data = self.peek(count)
        self._advance(len(data))
        return data

    def skip(self, count: int) -> None:
        while count > 0:
            step = len(self.take(min(count, 1 << 20)))
            if not step:
                return
            count -= step

    def skip_blank(self) -> None:
        while self.peek(1) in (b"\r", b"\n", b"\0"):
            self._advance(1)

    def header(self) -> bytes:
        """Bytes up to and with the first empty line; empty when there is none within the cap."""
        for count in (2048, MAX_HEADER):
            block = self.peek(count)
            ends = [block.find(mark) + len(mark) for mark in (b"\r\n\r\n", b"\n\n", b"\r\r\n\r\r\n") if mark in block]
            if ends:
                return block[: min(ends)]
        return b""

    def blank_or_record(self) -> bool:
        rest = self.peek(64).lstrip(b"\r\n\0")
        return not rest or rest.startswith(RECORD)

    def skip_to_record(self) -> None:
        """Move to the next line that starts with `WARC/`, or to the end."""
        mark = b"\n" + RECORD
        while True:
            self._fill(1 << 16)
            found = self._buffer.find(mark, self._at)
            if found >= 0:
                self._advance(found + 1 - self._at)
                return
            rest = len(self._buffer) - self._at
            if rest < 1 << 16:
                self._advance(rest)
                return
            self._advance(rest - len(mark))
