"""HTTP bodies as stored in a crawl, back to the bytes of the page: chunked framing, then content codings.

Written here rather than left to the WARC library, because a body that cannot be decoded has to say so: the page
goes to quarantine with its reason. Two lies are forgiven, since archiving tools tell them: a `gzip` label on a body
that is stored decoded, and a `chunked` label on a body without any framing. Every coding is capped in output.
"""

from __future__ import annotations

import io
import re
import zlib

import brotli
import pyarrow as pa
from isal import isal_zlib

from stages.ingest.codecs import INFLATE_ERROR

_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]{0,4096})?\r?\n")
_PLAIN = {"", "identity", "none", "binary", "8bit", "utf-8"}


class BodyError(ValueError):
    """A body that cannot be decoded. `reason` is bad_chunking, bad_encoding or too_large."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode_body(body: bytes, transfer: str, content: str, limit: int) -> bytes:
    """The page behind `Transfer-Encoding` and `Content-Encoding` (RFC 9112 section 7.1, RFC 9110 section 8.4).

    Raises BodyError; a page of more than `limit` bytes is too_large, however small its coded form.
    """
    if "chunked" in transfer:
        body = unchunk(body)
    for coding in reversed([part.strip() for part in content.split(",")] if content else []):
        if coding not in _PLAIN and body:
            body = _decode(body, coding, limit)
    if len(body) > limit:
        raise BodyError("too_large", f"{len(body)} bytes after decoding, limit {limit}")
    return body


def unchunk(body: bytes) -> bytes:
    """Join the chunks of a body; trailers are dropped. A body that does not begin with a chunk is taken as it is."""
    match = _CHUNK_SIZE.match(body)
    if match is None:
        return body
    parts: list[bytes] = []
    while match is not None:
        size, start = int(match[1], 16), match.end()
        if size == 0:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if start + size > len(body):
            raise BodyError("bad_chunking", f"chunk of {size} bytes at {match.start()}, only {len(body) - start} left")
        parts.append(body[start : start + size])
        after = start + size + (2 if body.startswith(b"\r\n", start + size) else 1)
        if body[after - 1 : after] != b"\n":
            raise BodyError("bad_chunking", f"expected a line end after the chunk at {match.start()}")
        match = _CHUNK_SIZE.match(body, after)
    raise BodyError("bad_chunking", f"expected a chunk size at {after}, found {body[after : after + 20]!r}")


def _decode(body: bytes, coding: str, limit: int) -> bytes:
    try:
        if coding in ("gzip", "x-gzip"):
            return _inflate(body, 31, limit) if body.startswith(b"\x1f\x8b") else body
        if coding == "deflate":  # zlib by the standard, bare deflate by some servers
            wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            return _inflate(body, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS, limit)
        if coding == "br":
            return _unbrotli(body, limit)
        if coding == "zstd":
            stream = pa.CompressedInputStream(pa.py_buffer(body), "zstd")
            return _capped(stream.read(limit + 1), limit)
    except (INFLATE_ERROR, brotli.error, OSError, EOFError) as error:
        raise BodyError("bad_encoding", f"{coding}: {error}") from None
    raise BodyError("bad_encoding", f"expected gzip, deflate, br or zstd, found content coding {coding!r}")


def _capped(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise BodyError("too_large", f"more than {limit} bytes after decoding")
    return data


def _inflate(body: bytes, wbits: int, limit: int) -> bytes:
    out, rest = b"", body
    while True:
        stream = isal_zlib.decompressobj(wbits)
        out += stream.decompress(rest, limit + 1 - len(out))
        _capped(out, limit)
        if not stream.eof:
            raise EOFError(f"ends after {len(out)} decoded bytes")
        rest = stream.unused_data
        if wbits != 31 or not rest.startswith(b"\x1f\x8b"):
            return out


def _unbrotli(body: bytes, limit: int) -> bytes:
    stream, out = brotli.Decompressor(), io.BytesIO()
    out.write(stream.process(body, output_buffer_limit=limit + 1))
    while not stream.is_finished():
        if out.tell() > limit:
            raise BodyError("too_large", f"more than {limit} bytes after decoding")
        if stream.can_accept_more_data():
            raise EOFError(f"ends after {out.tell()} decoded bytes")
        out.write(stream.process(b"", output_buffer_limit=limit + 1 - out.tell()))
    return _capped(out.getvalue(), limit)
