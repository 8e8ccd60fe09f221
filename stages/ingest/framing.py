"""WARC records out of a stream of decompressed bytes (ISO 28500: header, blank line, Content-Length bytes, blank line).

Framing is done here rather than by the WARC library, so that a broken record costs itself and nothing else: where
the header is broken, the bytes run out, or something else than a record follows, one frame says so with the bytes at
hand, and reading goes on at the next line `WARC/x.y`. Cost: one copy of each record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stages.ingest.records import RAW_BYTES, Broken

HEAD_BYTES = 64 << 10
_BLANK = re.compile(rb"\n\r*\n")  # tools have written LF and CR CR LF for CR LF
_LENGTH = re.compile(rb"\nContent-Length[ \t]*:[ \t]*(\d{1,15})[ \t]*\r*\n", re.IGNORECASE)
_RESYNC = re.compile(rb"\nWARC/\d\.\d{1,2}\r?\n")


class Frame(NamedTuple):
    """One record, or one stretch of broken input when `reason` is set: `data` is then the start of its bytes.

    reason: bad_header, bad_length, truncated, arc, too_large (a whole record, of which `data` is the header), or
    that of a Broken stream.
    """

    offset: int
    data: bytes
    reason: str | None = None
    message: str = ""


class Framer:
    """`offset_of` maps a position in the stream to a file offset, `reached` gives the file offset read so far.

    Records that share a gzip member get its offset, plus one for each record before; where a member holds more
    records than compressed bytes, which only a bomb does, reading stops with a Broken frame.
    """

    def __init__(self, chunks: Iterator[bytes], offset_of: Callable[[int], int], reached: Callable[[], int | None],
                 limit: int) -> None:  # fmt: skip
        self._chunks, self._offset_of, self._reached, self._limit = iter(chunks), offset_of, reached, limit
        self._buffer, self._position, self._last = b"", 0, -1
        self._ended = False
        self._broken: Broken | None = None

    def _fill(self, size: int) -> bool:
        """Have at least `size` bytes in the buffer; False at the end of the stream."""
        have = len(self._buffer)
        if have >= size:
            return True
        parts = [self._buffer]
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
        self._buffer = b"".join(parts) if len(parts) > 1 else self._buffer
        return have >= size

    def _drop(self, size: int) -> None:
        self._buffer = self._buffer[size:]
        self._position += size

    def _offset(self) -> int:
        offset = max(self._offset_of(self._position), self._last + 1)
        reached = self._reached()
        if reached is not None and offset >= reached - 1 and self._last >= 0:
            self._ended, self._buffer = True, b""
            self._last = offset
            raise Broken("bomb", "more records in a gzip member than it has bytes")
        self._last = offset
        return offset

    def __iter__(self) -> Iterator[Frame]:
        try:
            while True:
                while self._fill(1) and self._buffer[0] in b"\r\n":
                    self._drop(len(self._buffer) - len(self._buffer.lstrip(b"\r\n")))
                if not self._buffer:
                    break
                yield self._record()
            if self._broken is not None:
                yield Frame(self._offset(), b"", self._broken.reason, str(self._broken))
        except Broken as bomb:
            yield Frame(self._last, b"", bomb.reason, str(bomb))

    def _record(self) -> Frame:
        offset = self._offset()
        if not self._fill(5) or not self._buffer.startswith(b"WARC/"):
            if self._buffer.startswith(b"filedesc:"):
                return self._resync(offset, "arc", "expected WARC, found an ARC file: convert it first", 0)
            return self._resync(offset, "bad_header", f"expected `WARC/`, found {self._buffer[:20]!r}", 0)
        blank = _BLANK.search(self._buffer, 0, HEAD_BYTES)
        while blank is None and len(self._buffer) < HEAD_BYTES and self._fill(len(self._buffer) + 1):
            blank = _BLANK.search(self._buffer, 0, HEAD_BYTES)
        if blank is None:
            return self._resync(offset, "bad_header", f"no end of the header within {HEAD_BYTES} bytes", 5)
        head = blank.end()
        match = _LENGTH.search(self._buffer, 0, head)
        if match is None:
            return self._resync(offset, "bad_header", "expected a Content-Length, found none", head - 1)
        length = int(match[1])
        if length > self._limit:
            return self._skip(offset, head, length)
        total = head + length
        if not self._fill(total):
            message = f"expected {length} bytes, found {len(self._buffer) - head}"
            return self._resync(offset, "truncated", message, head - 1)
        self._fill(total + 32)
        follows = self._buffer[total : total + 32]
        rest = follows.lstrip(b"\r\n")
        if rest and not follows.startswith(b"\r\n\r\n") and not rest.startswith(b"WARC/"):
            message = f"expected the next record after {length} bytes, found {follows[:20]!r}"
            return self._resync(offset, "bad_length", message, head - 1)
        data = self._buffer[:total]
        if not rest and self._broken is not None:
            return self._resync(offset, self._broken.reason, str(self._broken), total)
        self._drop(total)
        return Frame(offset, data)

    def _skip(self, offset: int, head: int, length: int) -> Frame:
        data, left = self._buffer[:head], length
        self._drop(head)
        while left:
            if not self._fill(1):
                reason = self._broken.reason if self._broken else "truncated"
                self._broken = None
                return Frame(offset, data, reason, f"expected {length} bytes, found {length - left}")
            taken = min(left, len(self._buffer))
            self._drop(taken)
            left -= taken
        return Frame(offset, data, "too_large", f"{length} bytes, limit {self._limit}")

    def _resync(self, offset: int, reason: str, message: str, search: int) -> Frame:
        """The frame of broken bytes, from the buffer's start to the next record behind `search`, or to the end."""
        raw, skipped = self._buffer[:RAW_BYTES], 0
        while True:
            match = _RESYNC.search(self._buffer, search)
            if match is not None:
                skipped += match.start() + 1
                self._drop(match.start() + 1)
                return Frame(offset, raw[:skipped], reason, f"{message}; {skipped} bytes skipped to the next record")
            keep = min(len(self._buffer), 16)
            skipped += len(self._buffer) - keep
            self._drop(len(self._buffer) - keep)
            if not self._fill(keep + 1):
                skipped += len(self._buffer)
                self._drop(len(self._buffer))
                if self._broken is not None:  # the cause; what was found before it is the symptom
                    reason, message, self._broken = self._broken.reason, str(self._broken), None
                return Frame(offset, raw, reason, f"{message}; {skipped} bytes to the end")
            if len(raw) < RAW_BYTES:
                raw += self._buffer[keep : keep + RAW_BYTES - len(raw)]
            search = 0
