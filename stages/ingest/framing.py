"""Records out of a stream of decompressed bytes: WARC (ISO 28500) and ARC (Internet Archive, versions 1 and 2).

A WARC record is a header, a blank line, Content-Length bytes and a blank line; an ARC record is one line `URL IP date
type [...] length`, the bytes and a line end. Framing is done here rather than by the WARC library, so that a broken
record costs itself and nothing else: where the header is broken, the bytes run out, or something else than a record
follows, one frame says so with the bytes at hand, and reading goes on at the next line that begins a record. Cost:
one copy of each record; none where a compressed member holds exactly one (`sole_record`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stages.ingest.records import RAW_BYTES, Broken

HEAD_BYTES = 64 << 10
_ARC_LINE = (
    rb"[A-Za-z][A-Za-z0-9+.-]{0,30}:[^\r\n]{0,8192}? (?:[0-9A-Fa-f.:]{2,45}|-) \d{8,20} [^\r\n]{1,2048}? \S{1,20}\r?\n"
)
_LINE_ENDS = re.compile(rb"[\r\n]*")
_SEPARATORS = {b"\r\n\r\n", b"\n", b"\r\n", b"\n\n", b""}


class Dialect(NamedTuple):
    """How records begin, where their headers end and state the length, and what a reader gone astray looks for."""

    name: str
    start: re.Pattern[bytes]
    head_end: re.Pattern[bytes]
    length: re.Pattern[bytes]
    resync: re.Pattern[bytes]
    look: int  # bytes that tell the start of a record
    hint: re.Pattern[bytes]  # what the first 64 bytes of any record match


WARC = Dialect(
    "WARC",
    re.compile(rb"WARC/"),
    re.compile(rb"\n\r*\n"),  # tools have written LF and CR CR LF for CR LF
    re.compile(rb"\nContent-Length[ \t]*:[ \t]*(\d{1,15})[ \t]*\r*\n", re.IGNORECASE),
    re.compile(rb"\nWARC/\d\.\d{1,2}\r?\n"),
    32,
    re.compile(rb"WARC/"),
)
ARC = Dialect(
    "ARC",
    re.compile(_ARC_LINE),
    re.compile(rb"\n"),
    re.compile(rb" (\d{1,15})\r?\n"),
    re.compile(rb"\n" + _ARC_LINE),
    12 << 10,
    re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,30}:"),
)


def dialect_of(data: bytes) -> Dialect:
    """By the first bytes of a file; WARC where they are neither."""
    return ARC if ARC.start.match(data) else WARC


class Frame(NamedTuple):
    """One record: data[:head] is its header, data[head:end] its content.

    Or one stretch of broken input when `reason` is set: `data` is then the start of its bytes. reason: bad_header,
    bad_length, truncated, too_large (a whole record, of which `data` is the header), or that of a Broken stream.
    """

    offset: int
    data: bytes
    head: int = 0
    end: int = 0
    reason: str | None = None
    message: str = ""


def sole_record(offset: int, data: bytes, dialect: Dialect, limit: int) -> Frame | None:
    """The frame of data that are one sound record of at most `limit` content bytes, as the Framer would make it."""
    blank = dialect.head_end.search(data, 0, HEAD_BYTES) if dialect.start.match(data) else None
    match = dialect.length.search(data, 0, blank.end()) if blank else None
    if blank is None or match is None:
        return None
    head, length = blank.end(), int(match[1])
    end = head + length
    if length > limit or end > len(data) or data[end:] not in _SEPARATORS:
        return None
    return Frame(offset, data, head, end)


class Framer:
    """`offset_of` maps a position in the stream to a file offset, `reached` gives the file offset read so far.

    Records that share a compressed member get its offset, plus one for each record before; where a member holds more
    records than compressed bytes, which only a bomb does, reading stops with a Broken frame. Without a dialect, the
    first bytes tell it.
    """

    def __init__(self, chunks: Iterator[bytes], offset_of: Callable[[int], int], reached: Callable[[], int | None],
                 limit: int, dialect: Dialect | None = None) -> None:  # fmt: skip
        self._chunks, self._offset_of, self._reached, self._limit = iter(chunks), offset_of, reached, limit
        self._buffer, self._at, self._base, self._last = b"", 0, 0, -1  # the buffer's first byte in use, its position
        self._ended = False
        self._broken: Broken | None = None
        self._stated = dialect

    def _fill(self, size: int) -> bool:
        """Have at least `size` bytes in use in the buffer; False at the end of the stream."""
        have = len(self._buffer) - self._at
        if have >= size or self._ended:
            return have >= size
        parts = [self._buffer[self._at :]]
        while have < size and not self._ended:
            try:
                chunk = next(self._chunks, None)
            except Broken as error:
                self._broken, chunk = error, None
            if chunk is None:
                self._ended = True
            else:
                parts.append(chunk)
                have += len(chunk)
        self._base += self._at
        self._buffer, self._at = b"".join(parts), 0
        return have >= size

    def _bytes(self, size: int) -> bytes:
        return self._buffer[self._at : self._at + size]

    def _offset(self) -> int:
        offset = max(self._offset_of(self._base + self._at), self._last + 1)
        reached = self._reached()
        if reached is not None and offset >= reached - 1 and self._last >= 0:
            self._ended, self._buffer, self._at = True, b"", 0
            self._last = offset
            raise Broken("bomb", "more records in a compressed member than it has bytes")
        self._last = offset
        return offset

    def __iter__(self) -> Iterator[Frame]:
        try:
            while True:
                while self._fill(1) and self._buffer[self._at] in b"\r\n":
                    self._at = _LINE_ENDS.match(self._buffer, self._at).end()  # type: ignore[union-attr]
                if self._at == len(self._buffer):
                    break
                if self._stated is None:
                    self._fill(ARC.look)
                    self._stated = dialect_of(self._bytes(ARC.look))
                yield self._record(self._stated)
            if self._broken is not None:
                yield Frame(self._offset(), b"", reason=self._broken.reason, message=str(self._broken))
        except Broken as bomb:
            yield Frame(self._last, b"", reason=bomb.reason, message=str(bomb))

    def _header_end(self, dialect: Dialect) -> int:
        """Length of the header that begins here, 0 where it has no end within the cap."""
        while True:
            blank = dialect.head_end.search(self._buffer, self._at, self._at + HEAD_BYTES)
            if blank is not None:
                return blank.end() - self._at
            have = len(self._buffer) - self._at
            if have >= HEAD_BYTES or not self._fill(have + 1):
                return 0

    def _record(self, dialect: Dialect) -> Frame:
        offset = self._offset()
        self._fill(dialect.look)
        if not dialect.start.match(self._buffer, self._at):
            message = f"expected the start of a record ({dialect.name}), found {self._bytes(20)!r}"
            return self._resync(dialect, offset, "bad_header", message, 0)
        head = self._header_end(dialect)
        if not head:
            return self._resync(dialect, offset, "bad_header", f"no end of the header within {HEAD_BYTES} bytes", 5)
        match = dialect.length.search(self._buffer, self._at, self._at + head)
        if match is None:
            return self._resync(dialect, offset, "bad_header", "expected a length of the record, found none", head - 1)
        length = int(match[1])
        if length > self._limit:
            return self._skip(offset, head, length)
        total = head + length
        if not self._fill(total):
            message = f"expected {length} bytes, found {len(self._buffer) - self._at - head}"
            return self._resync(dialect, offset, "truncated", message, head - 1)
        self._fill(total + dialect.look)
        follows = self._buffer[self._at + total : self._at + total + dialect.look]
        rest = follows.lstrip(b"\r\n")
        if rest and not follows.startswith(b"\r\n\r\n") and not dialect.start.match(rest):
            message = f"expected the next record after {length} bytes, found {follows[:20]!r}"
            return self._resync(dialect, offset, "bad_length", message, head - 1)
        if not rest and self._broken is not None:
            return self._resync(dialect, offset, self._broken.reason, str(self._broken), total)
        data = self._bytes(total)
        self._at += total
        return Frame(offset, data, head, total)

    def _skip(self, offset: int, head: int, length: int) -> Frame:
        data, left = self._bytes(head), length
        self._at += head
        while left:
            if not self._fill(1):
                reason = self._broken.reason if self._broken else "truncated"
                self._broken = None
                return Frame(offset, data, head, head, reason, f"expected {length} bytes, found {length - left}")
            taken = min(left, len(self._buffer) - self._at)
            self._at += taken
            left -= taken
        return Frame(offset, data, head, head, "too_large", f"{length} bytes, limit {self._limit}")

    def _resync(self, dialect: Dialect, offset: int, reason: str, message: str, search: int) -> Frame:
        """The frame of broken bytes, from here to the next record at least `search` bytes further, or to the end."""
        raw, skipped = self._bytes(RAW_BYTES), 0
        while True:
            match = dialect.resync.search(self._buffer, self._at + search)
            if match is not None:
                skipped += match.start() + 1 - self._at
                self._at = match.start() + 1
                message = f"{message}; {skipped} bytes skipped to the next record"
                return Frame(offset, raw[:skipped], 0, 0, reason, message)
            have = len(self._buffer) - self._at
            keep = min(have, dialect.look)
            skipped += have - keep
            self._at += have - keep
            if not self._fill(keep + 1):
                skipped += keep
                self._at = len(self._buffer)
                if self._broken is not None:  # the cause; what was found before it is the symptom
                    reason, message, self._broken = self._broken.reason, str(self._broken), None
                return Frame(offset, raw, 0, 0, reason, f"{message}; {skipped} bytes to the end")
            if len(raw) < RAW_BYTES:
                raw += self._buffer[keep : keep + RAW_BYTES - len(raw)]
            search = 0
