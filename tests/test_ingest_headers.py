"""Header fields: the liberties that crawls take, X-Robots-Tag, and the same answers as fastwarc on real crawls."""

from itertools import islice
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import given
from hypothesis import strategies as st
from source_files import response, rows_of

from stages.ingest import warc
from stages.ingest.codecs import GZIP
from stages.ingest.framing import WARC
from stages.ingest.headers import HTTP_HEAD_BYTES, http_head, record_head
from stages.ingest.members import Members, Window

SHARED = Path(__file__).resolve().parents[2] / "shared"


def http(data):
    return http_head(data, 0, len(data))


def test_fields_in_the_forms_that_crawls_have():
    head = http(b"HTTP/1.1 200 OK\r\ncontent-TYPE : text/html ;\r\n\tcharset=utf-8\r\nX: y\r\n\r\nbody")
    assert (head.status, head.content_type) == (200, b"text/html ; charset=utf-8")
    assert http(b"HTTP/1.0 404\nContent-Type:a/b\nContent-Type: c/d\n\nbody").content_type == b"a/b"
    assert http(b"HTTP/1.0 404\nContent-Encoding: GZIP\n\n").coding == "gzip"
    assert http(b"HTTP/1.1 200 OK\r\r\nContent-Type: a/b\r\r\n\r\r\nbody").end == 41
    assert http(b"HTTP/1.1 200 OK\r\nContent-Type: a/b").end == 34  # cut off inside its header
    assert http(b"HTTP/1.1 OK\r\n\r\n").status is None
    assert http(b"HTTP/1.1 2000 OK\r\n\r\n").status is None
    assert http(b"HTTP/1.1 200 OK\r\nX: y\r\n" + b"z" * HTTP_HEAD_BYTES) is None
    assert record_head(b"WARC/1.0\r\nwarc-type: Response\r\n\r\n").kind == b"response"
    assert record_head(b"WARC/1.0\r\n\r\n").kind is None


@pytest.mark.parametrize(
    ("headers", "tag"),
    [
        ([], None),
        ([("X-Robots-Tag", "noai, noindex")], "noai, noindex"),
        ([("X-Robots-Tag", "noai"), ("x-robots-tag", "otherbot: noindex")], "noai, otherbot: noindex"),
        ([("X-Robots-Tag", "")], None),
        ([("X-Robots-Tag", "a\x01b")], "a�b"),
        ([("X-Robots-Tag", "x" * 5000)], "x" * 1024),
    ],
)
def test_robots_tags_become_a_column(write, headers, tag):
    html = ("Content-Type", "text/html")
    data = response("a", headers=[html, *headers]) + response("b", status="404 Not Found", headers=[html, *headers])
    for row in rows_of(warc, write(data)):
        assert row["robots_tag"] == tag


@given(st.binary(max_size=300))
def test_any_bytes_have_a_head_within_them(data):
    head = http_head(b"HTTP/1.1 200 OK\r\n" + data, 0, len(data) + 17)
    assert head.status == 200
    assert 17 <= head.end <= len(data) + 17


FILES = ["aut__example.warc.gz", "chatnoir-resiliparse__warcfile.warc.gz", "dolma__sample-0000.warc.gz",
         "ia-web-commons__IAH-urls-wget.warc.gz", "pywb__iana.warc.gz", "warc__crlf_at_1k_boundary.warc.gz",
         "warcio__example-wget-bad-target-uri.warc.gz", "CRAWL-S-00001.warc.gz"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_same_fields_as_fastwarc(name):
    """URL, status, type, codings and the length of the body of up to 1,000 responses of each real crawl."""
    path = SHARED / "data" / ("crawl" if name.startswith("CRAWL") else "warc") / name
    if not path.exists():
        pytest.skip("the collected WARC files are not on this machine")
    expected = []
    with open(path, "rb") as stream:
        for record in islice(ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="none"), 1000):
            fields = record.http_headers
            if fields is not None:
                named = [fields.get(key) or "" for key in ("Content-Type", "Transfer-Encoding", "Content-Encoding")]
                url = record.headers.get("WARC-Target-URI").strip("<>")
                expected.append((url, fields.status_code, *named, len(record.reader.read())))
    found = []
    with pafs.LocalFileSystem().open_input_file(str(path)) as file:
        size = path.stat().st_size
        for frame in warc._member_frames(Members(Window(file, size), GZIP, WARC), 0, size, 1 << 30):
            assert frame.reason is None
            head = record_head(frame.data[: frame.head])
            if head.kind == b"response" and frame.data.startswith(b"HTTP/", frame.head):
                fields = http_head(frame.data, frame.head, frame.end)
                media = (fields.content_type or b"").decode("latin-1")
                body = frame.end - fields.end
                found.append((head.url, fields.status, media, fields.transfer, fields.coding, body))
            if len(found) == len(expected):
                break
    assert [(*row[:3], row[3].lower(), row[4].lower(), row[5]) for row in expected] == found


def test_a_record_of_100_mb(write):
    bodies = {"a": b"<html>one", "big": b"<html>" + b"word " * 20_000_000, "b": b"<html>two"}
    path = write(b"".join(response(name, body, gzipped=False) for name, body in bodies.items()), "x.warc")
    found = rows_of(warc, path)
    assert [row["reason"] for row in found] == [None, "too_large", None]
    found = rows_of(warc, path, max_record_bytes=1 << 28)
    assert len(found[1]["html"]) == 100_000_006
