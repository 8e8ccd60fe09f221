"""The compressed members (gzip) or frames (zstd) of a range of a file, grouped so that each group begins a record.

A crawl file is a chain of members, one for each record, so it can be entered anywhere: a *start* is an offset
where a member begins whose content begins a record. A range owns the starts inside it, and what follows each one
up to the next start: members that go on with the same record, garbage, the remains of a broken member. So
neighbouring ranges are disjoint and complete, whatever is broken between them.

A broken member ends its group; reading goes on at the next start found behind the break.

Limit: the start of a range inside a record (or a skippable frame) that carries a whole WARC file, stored without
compression, takes the inner file for a part of the outer one. Cost: inflate by ISA-L, 220 MB/s of compressed input
on one core.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from stages.ingest.codecs import Codec
from stages.ingest.framing import Dialect, Frame, sole_record
from stages.ingest.records import Broken

STEP = 16 << 10  # compressed bytes inflated at once: no step makes more than 16.5 MB
FIRST_BYTES = 160 << 10  # compressed bytes after which something must have come out; a zstd block takes 128 kB
PEEK_BYTES = 64
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
    inflate: Any
    fed: int
    chunk: bytes
    error: str | None
    is_start: bool


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
        members, member, made = self._members, self._first, 0
        codec = members.codec
        while True:
            at, inflate, fed, chunk, error, _ = member
            base, what = made, f"{codec.member} at {at}"
            while True:
                made += len(chunk)
                self.reached = fed - len(inflate.unused_data)
                if chunk:
                    yield chunk
                if error:
                    self._break(at, f"broken_{codec.name}", f"{what}: {error}")
                if inflate.eof:
                    break
                if made - base > max(BOMB_BYTES, BOMB_RATIO * (fed - at)):
                    self._break(at, "bomb", f"{what}: {made - base} bytes out of {fed - at}")
                piece = members.window.view(fed, STEP) if codec.hungry(inflate) else b""
                if not piece and codec.hungry(inflate):
                    self._break(at, f"truncated_{codec.name}", f"{what}: the file ends inside it")
                try:
                    chunk = inflate.decompress(piece)
                except codec.errors as problem:
                    chunk, error = members.salvage(at, fed, piece), str(problem)
                fed += len(piece)
            self.reached = members.skip(self.reached)
            following = members.open(self.reached)
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
    """Members of one file; `dialect` tells what the start of a record looks like."""

    def __init__(self, window: Window, codec: Codec, dialect: Dialect) -> None:
        self.window, self.codec, self.dialect = window, codec, dialect

    def open(self, at: int) -> Member | None:
        """The member at an offset, or None where none begins or none of it can be inflated.

        Feeds it until something comes out: zstd gives whole blocks.
        """
        if self.window.view(at, len(self.codec.magic)) != self.codec.magic:
            return None
        inflate, error, chunk, fed = self.codec.new(), None, b"", at
        while not chunk and not inflate.eof and error is None and fed - at < FIRST_BYTES:
            piece = self.window.view(fed, STEP)
            if not piece:
                return None
            try:
                chunk = inflate.decompress(piece)
            except self.codec.errors as problem:
                chunk, error = self.salvage(at, fed, piece), str(problem)
                if not chunk:
                    return None
            fed += len(piece)
        return Member(at, inflate, fed, chunk, error, self.dialect.start.match(chunk) is not None)

    def _may_start(self, at: int) -> bool:
        """False where the first bytes out of a member begin no record: a cheap look, before all of it is opened."""
        inflate, fed = self.codec.new(), at
        while fed - at < FIRST_BYTES:
            piece = self.window.view(fed, STEP)
            try:
                found = inflate.decompress(piece, PEEK_BYTES)
            except self.codec.errors:
                return True  # a fault so early is cheap to look at closely
            if found or inflate.eof or not piece:
                return self.dialect.hint.match(found) is not None
            fed += len(piece)
        return False

    def skip(self, at: int) -> int:
        """Where the next member may begin: behind zstd's skippable frames, which hold no data."""
        return self.codec.skip(self.window.view, at)

    def scan(self, at: int, end: int) -> Member | None:
        """The first start in [at, end)."""
        while (at := self.window.find(self.codec.magic, at, end)) >= 0:
            member = self.open(at) if self._may_start(at) else None
            if member is not None and member.is_start:
                return member
            at += 1
        return None

    def sole(self, member: Member, limit: int) -> tuple[Frame, Member | None, int] | None:
        """The usual case, without a Framer: (frame, what follows, where) of a member that is exactly one record.

        None where it is not, or where what follows is neither a start nor the end of the group: a Group tells.
        """
        at, inflate, fed, chunk, error, is_start = member
        if error or not is_start:
            return None
        parts, made = [chunk], len(chunk)
        while not inflate.eof:
            piece = self.window.view(fed, STEP) if self.codec.hungry(inflate) else b""
            if made > limit or (not piece and self.codec.hungry(inflate)):
                return None
            try:
                parts.append(inflate.decompress(piece))
            except self.codec.errors:
                return None
            fed += len(piece)
            made += len(parts[-1])
        frame = sole_record(at, parts[0] if len(parts) == 1 else b"".join(parts), self.dialect, limit)
        if frame is None:
            return None
        end = self.skip(fed - len(inflate.unused_data))
        following = self.open(end)
        return (frame, following, end) if following is None or following.is_start else None

    def salvage(self, at: int, failed: int, piece: memoryview | bytes) -> bytes:
        """What the step that failed gives before the fault: nothing of it is kept, so it is fed again bytewise."""
        piece = bytes(piece)  # the window moves below
        inflate, fed = self.codec.new(), at
        good = []
        try:
            while fed < failed:
                step = self.window.view(fed, min(STEP, failed - fed)) if self.codec.hungry(inflate) else b""
                inflate.decompress(step)
                fed += len(step)
            for i in range(len(piece)):
                while not self.codec.hungry(inflate):
                    good.append(inflate.decompress(b""))
                good.append(inflate.decompress(piece[i : i + 1]))
        except self.codec.errors:
            pass  # the fault that brought us here; the caller reports it
        return b"".join(good)
