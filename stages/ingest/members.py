"""The gzip members of a range of a file, grouped so that each group begins with a WARC record.

A crawl file is a chain of gzip members, one for each record, so it can be entered anywhere: a *start* is an offset
where a member begins whose content begins with `WARC/`. A range owns the starts inside it, and what follows each one
up to the next start: members that go on with the same record, garbage, the remains of a broken member. So
neighbouring ranges are disjoint and complete, whatever is broken between them.

A broken member ends its group; reading goes on at the next start found behind the break.

Limit: the start of a range inside a record that carries a whole WARC file, stored without compression, takes the
inner file for a part of the outer one. Cost: zlib's inflate, 80 MB/s of compressed input on one core.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from stages.ingest.records import Broken

MAGIC = b"\x1f\x8b\x08"
STEP = 16 << 10  # compressed bytes inflated at once: no step makes more than 16.5 MB
BLOCK = 4 << 20  # bytes of one read from storage
BOMB_BYTES, BOMB_RATIO = 64 << 20, 250  # a member beyond both is not a crawl


class Window:
    """Random reads from a file through one block of buffer."""

    def __init__(self, file, size: int) -> None:
        self._file, self.size = file, size
        self._data, self._base = b"", 0

    def view(self, at: int, length: int) -> memoryview:
        """Bytes [at, at + length), fewer at the end of the file."""
        length = max(0, min(length, self.size - at))
        start = at - self._base
        if start < 0 or start + length > len(self._data):
            self._file.seek(at)
            self._data, self._base, start = self._file.read(max(length, BLOCK)), at, 0
        return memoryview(self._data)[start : start + length]

    def find(self, what: bytes, at: int, end: int) -> int:
        """Offset of the first `what` that begins in [at, end), or -1."""
        while at < end:
            view = self.view(at, min(BLOCK, end - at + len(what) - 1))
            found = bytes(view).find(what)
            if found >= 0:
                return at + found if at + found < end else -1
            at += max(1, len(view) - len(what) + 1)
        return -1


class Member(NamedTuple):
    """A member of which the first step is inflated. `error` says why the inflating stopped there, if it did."""

    at: int
    inflate: object
    fed: int
    chunk: bytes
    error: str | None

    @property
    def is_start(self) -> bool:
        return self.chunk.startswith(b"WARC/")


class Group:
    """Decompressed bytes of one group: an iterator of chunks that may raise Broken after the last good byte."""

    def __init__(self, members: Members, first: Member) -> None:
        self._members, self._first = members, first
        self._positions, self._offsets = [0], [first.at]
        self.reached = first.at  # file offset behind the last byte that went into a chunk
        self.next: Member | None = None  # what follows the group, at `end`; None where no member begins there
        self.end = -1

    def offset_of(self, position: int) -> int:
        """File offset of the member that holds a decompressed position."""
        return self._offsets[bisect_right(self._positions, position) - 1]

    def read_up_to(self) -> int:
        return self.reached

    def __iter__(self) -> Iterator[bytes]:
        window, member, made = self._members.window, self._first, 0
        while True:
            at, inflate, fed, chunk, error = member
            base = made
            while True:
                made += len(chunk)
                self.reached = fed - len(inflate.unused_data)  # type: ignore[attr-defined]
                if chunk:
                    yield chunk
                if error:
                    self._break(at, "broken_gzip", f"gzip member at {at}: {error}")
                if inflate.eof:  # type: ignore[attr-defined]
                    break
                if made - base > max(BOMB_BYTES, BOMB_RATIO * (fed - at)):
                    self._break(at, "bomb", f"gzip member at {at}: {made - base} bytes out of {fed - at}")
                piece = window.view(fed, STEP)
                if not piece:
                    self._break(at, "truncated_gzip", f"gzip member at {at}: the file ends inside it")
                try:
                    chunk = inflate.decompress(piece)  # type: ignore[attr-defined]
                except zlib.error as problem:
                    chunk, error = _salvage(window, at, fed, piece), str(problem)
                fed += len(piece)
            following = self._members.open(self.reached)
            if following is None or following.is_start:
                self.next, self.end = following, self.reached
                return
            member = following
            self._positions.append(made)
            self._offsets.append(member.at)

    def abandon(self, at: int | None = None) -> None:
        """Give up the member at an offset (or the one reached): the group ends at the next start behind it."""
        behind = self._offsets[-1] if at is None else at
        self.next = self._members.scan(behind + 1, self._members.window.size)
        self.end = self.next.at if self.next else self._members.window.size

    def _break(self, at: int, reason: str, message: str) -> NoReturn:
        self.abandon(at)
        raise Broken(reason, message)


class Members:
    def __init__(self, window: Window) -> None:
        self.window = window

    def open(self, at: int) -> Member | None:
        """The member at an offset, or None where none begins or none of it can be inflated."""
        piece = self.window.view(at, STEP)
        if piece[:3] != MAGIC:
            return None
        inflate, error = zlib.decompressobj(31), None
        try:
            chunk = inflate.decompress(piece)
        except zlib.error as problem:
            chunk, error = _salvage(self.window, at, at, piece), str(problem)
            if not chunk:
                return None
        return Member(at, inflate, at + len(piece), chunk, error)

    def scan(self, at: int, end: int) -> Member | None:
        """The first start in [at, end)."""
        while (at := self.window.find(MAGIC, at, end)) >= 0:
            member = self.open(at)
            if member is not None and member.is_start:
                return member
            at += 1
        return None


def _salvage(window: Window, at: int, failed: int, piece: memoryview) -> bytes:
    """What the step that failed gives before the fault: zlib keeps nothing of it, so it is fed again bytewise."""
    piece = memoryview(bytes(piece))  # the window moves below
    inflate = zlib.decompressobj(31)
    for fed in range(at, failed, STEP):
        inflate.decompress(window.view(fed, min(STEP, failed - fed)))
    good = []
    try:
        for i in range(len(piece)):
            good.append(inflate.decompress(piece[i : i + 1]))
    except zlib.error:
        pass  # the fault that brought us here; the caller reports it
    return b"".join(good)
