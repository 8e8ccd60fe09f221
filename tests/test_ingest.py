"""The WARC reader: nothing is lost in silence, and cutting a file into slices never changes its rows."""

import gzip
import io
import zlib
from pathlib import Path

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import FS, PAGE, fates, noise, other, response, rows_of
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.stage import DROPPED, KEPT, QUARANTINED
from stages.ingest import warc
from stages.ingest.http_body import BodyError, decode_body, unchunk

SHARED = Path(__file__).resolve().parents[2] / "shared"


def chunked(data, size=100):
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\n"


# ---- WARC: what becomes of each kind of record


def test_record_kinds(write):
    html = "text/html"
    data = (
        other("warcinfo", payload=b"software: test\r\n")
        + response("ok")
        + other("metadata", "meta", b"a: b\r\n")
        + response("moved", status="301 Moved", headers=[("Location", "/")])
        + response("pdf", headers=[("Content-Type", "application/pdf")])
        + response("empty", body=b"")
        + response("untyped", headers=[])
        + response("untyped-binary", body=b"\x89PNG", headers=[])
        + other("resource", "file.html", PAGE, html)
        + other("conversion", "wet", "Grüße\n".encode(), "text/plain")
        + other("conversion", "latin", b"Gr\xfc\xdfe", "text/plain")
        + other("conversion", "nul", b"a\0b", "text/plain")
        + other("revisit", "again")
        + other("continuation", "part2", PAGE, html)
        + response("cut", body=gzip.compress(PAGE)[:-9], headers=[("Content-Type", html), ("Content-Encoding", "gzip")],
                   warc_headers={"WARC-Truncated": "length"})
    )  # fmt: skip
    found = rows_of(warc, write(data))
    assert fates(found) == [
        ("ok", None), ("moved", "http_status"), ("pdf", "content_type"), ("empty", "empty_body"), ("untyped", None),
        ("untyped-binary", "content_type"), ("file.html", None), ("wet", None), ("latin", "bad_utf8"),
        ("nul", "nul_bytes"), ("again", "revisit"), ("part2", "record_type"), ("cut", "truncated"),
    ]  # fmt: skip
    by_name = {row["url"].rpartition("/")[2]: row for row in found}
    ok = by_name["ok"]
    assert (ok["html"], ok["charset"], ok["http_status"], ok["content_type"]) == (PAGE, "utf-8", 200, html)
    assert by_name["wet"]["text"] == "Grüße\n"
    assert by_name["wet"]["html"] is None
    assert by_name["moved"]["http_status"] == 301
    assert by_name["moved"]["html"] is None


def test_offsets_are_those_of_the_gzip_members(write):
    first, second, third = response("a"), PIECES["request"](0), response("b")
    found = rows_of(warc, write(first + second + third))
    assert [row["record_offset"] for row in found] == [0, len(first) + len(second)]


CODINGS = {
    "chunked": ([("Transfer-Encoding", "chunked")], chunked(PAGE)),
    "gzip": ([("Content-Encoding", "gzip")], gzip.compress(PAGE)),
    "gzip-chunked": ([("Content-Encoding", "gzip"), ("Transfer-Encoding", "Chunked")], chunked(gzip.compress(PAGE))),
    "gzip-members": ([("Content-Encoding", "x-gzip")], gzip.compress(PAGE[:50]) + gzip.compress(PAGE[50:])),
    "deflate": ([("Content-Encoding", "deflate")], zlib.compress(PAGE)),
    "deflate-bare": ([("Content-Encoding", "deflate")], zlib.compress(PAGE)[2:-4]),
    "br": ([("Content-Encoding", "br")], brotli.compress(PAGE)),
    "zstd": ([("Content-Encoding", "zstd")], pa.compress(PAGE, codec="zstd", asbytes=True)),
    "both": ([("Content-Encoding", "deflate, gzip")], gzip.compress(zlib.compress(PAGE))),
    "gzip-lie": ([("Content-Encoding", "gzip")], PAGE),
    "chunked-lie": ([("Transfer-Encoding", "chunked")], PAGE),
    "identity": ([("Content-Encoding", "identity")], PAGE),
}


@pytest.mark.parametrize("name", CODINGS)
def test_codings_are_undone_and_reading_goes_on(write, name):
    headers, body = CODINGS[name]
    data = response("first", body, headers=[("Content-Type", "text/html"), *headers]) + response("second")
    found = rows_of(warc, write(data))
    assert [(row["verdict"], row["html"]) for row in found] == [(KEPT, PAGE)] * 2


BROKEN_BODIES = {
    "chunk-short": ([("Transfer-Encoding", "chunked")], chunked(PAGE)[:-30], "bad_chunking"),
    "chunk-size": ([("Transfer-Encoding", "chunked")], b"5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n", "bad_chunking"),
    "chunk-end": ([("Transfer-Encoding", "chunked")], b"5\r\nhelloX\r\n0\r\n\r\n", "bad_chunking"),
    "gzip-cut": ([("Content-Encoding", "gzip")], gzip.compress(PAGE)[:-10], "bad_encoding"),
    "gzip-broken": ([("Content-Encoding", "gzip")], b"\x1f\x8bnonsense", "bad_encoding"),
    "br-cut": ([("Content-Encoding", "br")], brotli.compress(PAGE)[:-4], "bad_encoding"),
    "unknown": ([("Content-Encoding", "sdch")], PAGE, "bad_encoding"),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_broken_body_is_quarantined_with_its_bytes(write, name):
    headers, body, reason = BROKEN_BODIES[name]
    data = response("bad", body, headers=[("Content-Type", "text/html"), *headers]) + response("good")
    bad, good = rows_of(warc, write(data))
    assert (bad["verdict"], bad["reason"], bad["url"]) == (QUARANTINED, reason, "http://a.example/bad")
    assert body in bad["raw"]
    assert good["verdict"] == KEPT


@given(data=st.binary(max_size=400), size=st.integers(1, 60))
def test_unchunk_inverts_chunking(data, size):
    assert unchunk(chunked(data, size)) == data


@given(data=st.binary(max_size=200), transfer=st.sampled_from(["", "chunked"]),
       coding=st.sampled_from(["", "gzip", "deflate", "br", "zstd", "deflate, br"]))  # fmt: skip
def test_any_body_is_decoded_or_refused_within_the_cap(data, transfer, coding):
    try:
        reason, size = None, len(decode_body(data, transfer, coding, 1000))
    except BodyError as error:
        reason, size = error.reason, 0
    assert size <= 1000
    assert reason in (None, "bad_chunking", "bad_encoding", "too_large")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_bombs_are_capped(coding):
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
            "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True)}[coding](bytes(20 << 20))  # fmt: skip
    with pytest.raises(BodyError) as caught:
        decode_body(bomb, "", coding, 1 << 20)
    assert caught.value.reason == "too_large"


def test_member_bomb_is_quarantined_and_skipped(write):
    bomb = gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 99999999999\r\n\r\n" + bytes(100 << 20))
    found = rows_of(warc, write(response("a") + bomb + response("b")))
    assert fates(found) == [("a", None), ("", "bomb"), ("b", None)]


def test_more_records_than_bytes_is_a_bomb_too(write):
    tiny = gzip.compress(b"WARC/1.0\r\nWARC-Type: revisit\r\nContent-Length: 0\r\n\r\n\r\n\r\n" * 100_000)
    found = rows_of(warc, write(response("a") + tiny + response("b")))
    assert [row["reason"] for row in found[-3:]] == ["revisit", "bomb", None]
    assert fates(found)[-1] == ("b", None)


def test_too_large_records_are_dropped_by_name(write):
    data = response("a") + response("big", body=b"x" * 5000) + response("b")
    assert fates(rows_of(warc, write(data), max_record_bytes=2048)) == [("a", None), ("big", "too_large"), ("b", None)]


def test_strange_urls_and_charsets_stay_valid_utf8(write):
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=False)
    http = StatusAndHeaders("200 OK", [("Content-Type", 'text/html; charset="utf-99"')], protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record("http://a.example/MARK", "response", payload=io.BytesIO(PAGE),
                                                  http_headers=http))  # fmt: skip
    record = stream.getvalue()
    odd = [b"<http://a.example/MARK>", b"http://a.example/\x00\x01", b"http://a.example/\xff\xed\xa0\x80", b"x" * 9000]
    for url in odd:
        (row,) = rows_of(warc, write(gzip.compress(record.replace(b"http://a.example/MARK", url))))
        assert row["charset"] == "utf-99"
        assert len(row["url"]) <= 8192
        row["url"].encode()
        assert "\0" not in row["url"]
        assert not row["url"].startswith("<")


# ---- WARC: broken files


def corrupt(data, at, length=4):
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + length]) + data[at + length :]


def test_truncated_gzip_file(write):
    whole = response("a") + response("b", noise(1))
    found = rows_of(warc, write(whole[:-40]))
    assert fates(found) == [("a", None), ("b", "truncated_gzip")]
    assert found[1]["raw"].startswith(b"WARC/1.0")


def test_a_broken_member_costs_itself_only(write):
    a, b, c = response("a", noise(1)), response("b", noise(2)), response("c", noise(3))
    found = rows_of(warc, write(a + corrupt(b, len(b) // 2) + c))
    assert fates(found) == [("a", None), ("b", "broken_gzip"), ("c", None)]
    wrong_crc = corrupt(b, len(b) - 8, 1)
    assert fates(rows_of(warc, write(a + wrong_crc + c))) == [("a", None), ("b", "broken_gzip"), ("c", None)]


def test_garbage_between_members_has_its_own_row(write):
    a, b = response("a"), response("b")
    for garbage in (b"\0" * 100, b"\x1f\x8b\x08 no gzip at all", gzip.compress(b"something else")):
        found = rows_of(warc, write(a + garbage + b))
        assert [name for name, reason in fates(found) if reason is None] == ["a", "b"]
        assert [row["verdict"] for row in found].count(QUARANTINED) == 1
        assert found[1]["raw"]
    assert fates(rows_of(warc, write(b"", "empty"))) == [("", "empty_file")]
    assert [row["verdict"] for row in rows_of(warc, write(b"\x1f\x8b\x08"))] == [QUARANTINED]
    assert [row["verdict"] for row in rows_of(warc, write(b"<html>no WARC</html>"))] == [QUARANTINED]


def test_records_across_members_and_many_in_one(write):
    plain = b"".join(response(str(i), noise(i), gzipped=False) for i in range(9))
    expected = [(str(i), None) for i in range(9)]
    one = gzip.compress(plain)
    blocks = b"".join(gzip.compress(plain[i : i + 700]) for i in range(0, len(plain), 700))
    for data in (plain, one, blocks):
        assert fates(rows_of(warc, write(data), slice_bytes=500)) == expected
    assert [row["record_offset"] for row in rows_of(warc, write(one))] == list(range(9))


def test_wrong_lengths_in_a_plain_file_resync_at_the_next_record(write):
    a, b, c = (response(name, noise(3), gzipped=False) for name in "abc")
    length = int(b.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    for wrong in (length - 7, length + 7, length + 300, 10**9):
        broken = b.replace(b"Content-Length: %d" % length, b"Content-Length: %d" % wrong)
        found = rows_of(warc, write(a + broken + c, "x.warc"))
        assert fates(found)[0] == ("a", None)
        if wrong != 10**9:
            assert [row["verdict"] for row in found] == [KEPT, QUARANTINED, KEPT]
        else:  # it claims the rest of the file
            assert fates(found)[1] == ("b", "truncated")
    assert [row["verdict"] for row in rows_of(warc, write(a + b[:-50], "x.warc"))] == [KEPT, QUARANTINED]
    assert [row["verdict"] for row in rows_of(warc, write(b.replace(b"WARC-Type", b"WARC-Typo")))] == [QUARANTINED]


PIECES = {
    "page": lambda i: response(f"p{i}", noise(i)),
    "small": lambda i: response(f"s{i}"),
    "request": lambda i: other("request", f"r{i}", b"GET / HTTP/1.1\r\n\r\n", "application/http;msgtype=request"),
    "garbage": lambda i: b"garbage \x1f\x8b\x08 %d" % i * 20,
    "foreign": lambda i: gzip.compress(noise(i)),
    "broken": lambda i: corrupt(response(f"b{i}", noise(i)), 300, 3),
    "cut": lambda i: response(f"c{i}", noise(i))[:-60],
    "several": lambda i: gzip.compress(response(f"m{i}", gzipped=False) + response(f"n{i}", gzipped=False)),
    "split": lambda i: b"".join(gzip.compress(part) for part in (lambda r: (r[:333], r[333:]))(
        response(f"x{i}", noise(i), gzipped=False))),
}  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(sorted(PIECES)), max_size=9), slice_bytes=st.integers(1, 3000))
def test_any_slice_size_gives_the_same_rows(tmp_path, kinds, slice_bytes):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(response("first") + b"".join(PIECES[kind](i) for i, kind in enumerate(kinds)))
    whole = rows_of(warc, path, slice_bytes=1 << 30)
    assert rows_of(warc, path, slice_bytes=slice_bytes) == whole
    good = sum({"page": 1, "small": 1, "several": 2, "split": 1}.get(kind, 0) for kind in kinds) + 1
    assert sum(row["verdict"] == KEPT for row in whole) >= good - kinds.count("cut")
    bad = {row["url"].rpartition("/")[2] for row in whole if row["verdict"] == QUARANTINED and row["url"]}
    assert {f"b{i}" for i, kind in enumerate(kinds) if kind == "broken"} <= bad


def test_batches_end_at_256_records_or_16_mb(write):
    path = write(b"".join(response(str(i)) for i in range(300)))
    sizes = [b.num_rows for b in warc.read(FS, str(path), 0, path.stat().st_size, warc.Warc())]
    assert sizes == [256, 44]
    path = write(b"".join(response(str(i), b"<html>" + bytes(7 << 20)) for i in range(5)))
    sizes = [b.num_rows for b in warc.read(FS, str(path), 0, path.stat().st_size, warc.Warc())]
    assert sizes == [2, 2, 1]


# ---- WARC: real files

REAL = {  # file: (kept, dropped, quarantined)
    "aut__example.warc.gz": (94, 205, 0),
    "bad_bamboo__incomplete-response.warc.gz": (0, 1, 0),
    "bad_chatnoir-resiliparse__clipped.warc.gz": (0, 0, 1),
    "bad_warcio__bad.arc": (0, 1, 3),
    "bad_warcio__example-bad-non-chunked.warc.gz": (1, 1, 0),
    "bad_warcio__example-bad.warc.gz.bad": (1, 2, 0),
    "bad_warcio__example-trunc.warc": (0, 0, 1),
    "bad_warcio__example-wrong-chunks.warc.gz": (1, 0, 0),
    "bamboo__notfound.warc.gz": (0, 3, 0),
    "cc_net__sample.warc.txt": (0, 0, 4),
    "chatnoir-resiliparse__clueweb-quirk.warc.gz": (29, 0, 0),
    "chatnoir-resiliparse__warcfile.warc.gz": (16, 0, 0),
    "chatnoir-resiliparse__warcfile.warc.lz4": (16, 0, 0),
    "dolma__sample-0000.warc.gz": (22, 2, 0),
    "ia-web-commons__IAH-urls-wget.warc.gz": (2, 17, 0),
    "ia-web-commons__mutliple-headers.warc": (1, 0, 0),
    "jwarc__cc.warc.gz": (1, 0, 0),
    "pywb__dupes.warc.gz": (1, 11, 0),
    "pywb__example-wget-1-14.warc.gz": (1, 3, 0),
    "pywb__iana.warc.gz": (16, 155, 0),
    "pywb__missing-status-text.warc": (0, 1, 0),
    "warc-specifications__hello-world.warc.gz": (0, 3, 0),
    "warc__crlf_at_1k_boundary.warc.gz": (1, 0, 0),
    "warcio__example-digest.warc": (0, 0, 0),
    "warcio__example-iana.org-chunked.warc": (1, 0, 0),
    "warcio__example-resource.warc.gz": (1, 0, 0),
    "warcio__example-space-in-target-uri.warc.gz": (0, 1, 0),
    "warcio__example-wget-bad-target-uri.warc.gz": (1, 2, 0),
    "warcio__example.arc.gz": (1, 0, 0),
    "warcio__example.warc": (1, 1, 0),
    "warcio__example.warc.gz": (1, 1, 0),
    "warcio__post-test.warc.gz": (0, 3, 0),
    "whirlwind-python__whirlwind.warc": (1, 0, 0),
    "whirlwind-python__whirlwind.warc.gz": (1, 0, 0),
    "whirlwind-python__whirlwind.warc.wat": (0, 0, 0),
    "whirlwind-python__whirlwind.warc.wat.gz": (0, 0, 0),
    "whirlwind-python__whirlwind.warc.wet": (1, 0, 0),
    "whirlwind-python__whirlwind.warc.wet.gz": (1, 0, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    path = SHARED / "data" / "warc" / name
    if not path.exists():
        pytest.skip("the collected WARC files are not on this machine")
    found = rows_of(warc, path)
    assert tuple(sum(row["verdict"] == v for row in found) for v in (KEPT, DROPPED, QUARANTINED)) == REAL[name]
    assert rows_of(warc, path, slice_bytes=max(2000, path.stat().st_size // 7)) == found


@pytest.mark.parametrize("shard", ["CRAWL-S-00000", "CRAWL-S-00001"])
def test_crawl_shards_give_every_response_of_their_index(shard):
    path = SHARED / "data" / "crawl" / f"{shard}.warc.gz"
    if not path.exists():
        pytest.skip("the crawl shards are not on this machine")
    index = pq.read_table(path.parent / "index.parquet").to_pylist()
    expected = sorted((row["offset"], row["url"], row["status"]) for row in index if shard in row["shard"])
    params, found, verdicts = warc.Warc(slice_bytes=5_000_000), [], []
    for start, end in warc.split(FS, str(path), path.stat().st_size, params):
        for batch in warc.read(FS, str(path), start, end, params):
            named = (batch[name].to_pylist() for name in ("record_offset", "url", "http_status"))
            found += zip(*named, strict=True)
            verdicts += batch["verdict"].to_pylist()
    assert len(expected) == {"CRAWL-S-00000": 5290, "CRAWL-S-00001": 5152}[shard]
    assert found == expected
    assert QUARANTINED not in verdicts
