"""ARC files through the `warc` format: rows like those of WARC responses, reasons of their own, slices of any size."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import PAGE, fates, noise, rows_of
from warcio.archiveiterator import ArchiveIterator

from pipeline.stage import DROPPED, KEPT, QUARANTINED
from stages.ingest import warc
from stages.ingest.framing import ARC, WARC, dialect_of
from stages.ingest.headers import record_head

SHARED = Path(__file__).resolve().parents[2] / "shared"
HTTP = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nX-Robots-Tag: noai\r\n\r\n"
V1_BODY = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n\n"
V2_BODY = (
    b"2 0 InternetArchive\nURL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename "
    b"Archive-length\n\n"
)


def line(url, media=b"text/html", length=0, version=1):
    middle = media if version == 1 else media + b" 200 6a1ec - 123 x.arc.gz"
    return b"%s 10.0.0.1 20080430204825 %s %d\n" % (url, middle, length)


def header(version=1):
    body = V1_BODY if version == 1 else V2_BODY
    return b"filedesc://x.arc 0.0.0.0 20080430204825 text/plain %d\n" % len(body) + body


def page(name, body=PAGE, status=b"200 OK", media=b"text/html; charset=utf-8", version=1):
    content = HTTP % (status, media) + body
    return line(b"http://a.example/" + name, media, len(content), version) + content + b"\n"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_records_become_rows_like_those_of_responses(write, version, pack):
    dns = b"20080430204825\na.example.\tIN\tA\t10.0.0.1\n"
    records = [
        header(version),
        page(b"ok", version=version),
        line(b"dns:a.example", b"text/dns", len(dns), version) + dns + b"\n",
        page(b"moved", status=b"301 Moved", version=version),
        page(b"pdf", media=b"application/pdf", version=version),
        page(b"with space", version=version),
        line(b"http://a.example/empty", b"text/html", 0, version) + b"\n",
        line(b"http://a.example/bare", b"text/html", len(PAGE), version) + PAGE + b"\n",
    ]
    found = rows_of(warc, write(b"".join(map(pack, records)), "x.arc.gz"))
    assert fates(found) == [
        ("ok", None), ("dns:a.example", "content_type"), ("moved", "http_status"), ("pdf", "content_type"),
        ("with space", None), ("empty", "empty_body"), ("bare", None),
    ]  # fmt: skip
    ok = found[0]
    assert (ok["html"], ok["charset"], ok["http_status"], ok["robots_tag"]) == (PAGE, "utf-8", 200, "noai")
    assert (ok["content_type"], ok["record_offset"]) == ("text/html", len(pack(header(version))))
    assert found[-1]["html"] == PAGE
    assert found[-1]["http_status"] is None


def test_broken_records_cost_themselves_only(write):
    a, b = page(b"a", noise(1)), page(b"b", noise(2))
    bad = line(b"http://a.example/bad", b"text/html", 7).replace(b" 7\n", b" -1\n")
    found = rows_of(warc, write(header() + a + bad + b"some bytes\n" + b, "x.arc"))
    assert fates(found) == [("a", None), ("bad", "bad_header"), ("b", None)]
    found = rows_of(warc, write(header() + a + b"no record line\n" + b, "x.arc"))
    assert [row["reason"] for row in found] == ["bad_length", None]
    assert found[0]["raw"].startswith(b"http://a.example/a ")
    found = rows_of(warc, write(header() + a + b[:-50], "x.arc"))
    assert fates(found) == [("a", None), ("b", "truncated")]
    found = rows_of(warc, write(header() + page(b"big", b"x" * 5000) + b, "x.arc"), max_record_bytes=4000)
    assert fates(found) == [("big", "too_large"), ("b", None)]
    broken = gzip.compress(header()) + gzip.compress(a)[:-30] + gzip.compress(b)
    assert fates(rows_of(warc, write(broken))) == [("a", "broken_gzip"), ("b", None)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["page", "broken", "garbage", "two", "v2"]), max_size=8),
       slice_bytes=st.integers(1, 3000))  # fmt: skip
def test_any_slice_size_gives_the_same_rows(tmp_path, kinds, slice_bytes):
    def piece(i, kind):
        record = page(b"%d" % i, noise(i), version=2 if kind == "v2" else 1)
        packed = gzip.compress(record * 2 if kind == "two" else record)
        if kind == "broken":
            packed = packed[:200] + b"\xff\xff\xff" + packed[203:]
        return b"garbage" * 9 if kind == "garbage" else packed

    path = tmp_path / "x.arc.gz"
    path.write_bytes(gzip.compress(header()) + b"".join(piece(i, kind) for i, kind in enumerate(kinds)))
    whole = rows_of(warc, path, slice_bytes=1 << 30)
    assert rows_of(warc, path, slice_bytes=slice_bytes) == whole
    good = {"page": 1, "two": 2, "v2": 1}
    assert sum(row["verdict"] == KEPT for row in whole) == sum(good.get(kind, 0) for kind in kinds)


@pytest.mark.parametrize("name", ["warcio__example.arc.gz", "bad_warcio__bad.arc"])
def test_real_files_beside_warcio(name):
    path = SHARED / "data" / "warc" / name
    if not path.exists():
        pytest.skip("the collected WARC files are not on this machine")
    found = rows_of(warc, path)
    if name.startswith("bad_"):
        reasons = [(row["verdict"], row["reason"]) for row in found]
        assert reasons == [(QUARANTINED, "bad_header"), (QUARANTINED, "bad_header"), (DROPPED, "content_type"),
                           (QUARANTINED, "bad_header")]  # fmt: skip
        return
    with open(path, "rb") as stream:
        expected = [
            (record.rec_headers.get_header("uri"), record.content_stream().read())
            for record in ArchiveIterator(stream, arc2warc=False)
            if record.rec_type == "response"
        ]
    assert [(row["url"], row["html"]) for row in found] == expected


def test_the_dialect_is_told_by_the_first_line():
    assert dialect_of(header()) is ARC
    assert dialect_of(line(b"http://a.example/")) is ARC
    assert dialect_of(b"WARC/1.0\r\n") is WARC
    assert dialect_of(b"<html> no archive") is WARC
    assert record_head(line(b"http://a.example/", b"no-type", 5, 2)).content_type == b"no-type"
    assert record_head(header()).kind == b"arc-header"


def test_hostile_header_lines_are_read_in_linear_time(write):
    lines = b"\n".join(b"http:" + b"a " * 4000 for _ in range(300))
    found = rows_of(warc, write(header() + lines + b"\n" + page(b"a"), "x.arc"))
    assert [row["reason"] for row in found] == ["bad_length", None]
