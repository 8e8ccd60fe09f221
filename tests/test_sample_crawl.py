"""The pydoc crawl: a true WARC, whole or absent, with names that do not change."""

import pyarrow.fs as pafs
import pytest
from warcio.archiveiterator import ArchiveIterator

from pipeline.stage import DROPPED, KEPT
from stages.ingest import pydoc_crawl

FS = pafs.LocalFileSystem()


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    path = tmp_path_factory.mktemp("crawl") / "sub" / "pydoc.warc.gz"
    steps = []
    counts = pydoc_crawl.crawl(path, max_pages=14, progress=lambda done, known: steps.append((done, known)))
    return path, counts, steps


def test_counts_and_progress(crawled):
    path, counts, steps = crawled
    assert counts["pages"] == 14
    assert counts["failed"] == 0
    assert counts["bytes"] > 20_000
    assert counts["not visited"] > 150
    assert [done for done, _ in steps] == list(range(1, 15))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_records_have_headers_and_digests(crawled):
    kinds = []
    with crawled[0].open("rb") as stream:
        for record in ArchiveIterator(stream, check_digests="raise"):
            record.content_stream().read()
            kinds.append(record.rec_type)
            headers = record.rec_headers
            if record.rec_type == "warcinfo":
                continue
            assert headers["WARC-Target-URI"].startswith("http://pydoc.localhost/")
            assert headers["WARC-Block-Digest"]
            assert headers["WARC-Payload-Digest"] or record.rec_type == "request"
            if record.rec_type == "request":
                assert record.http_headers["Host"] == "pydoc.localhost"
                assert headers["WARC-Concurrent-To"]
    assert kinds == ["warcinfo"] + ["response", "request"] * 14


def test_rows(crawled):
    path, _, _ = crawled
    params = pydoc_crawl.Pydoc(slice_bytes=20_000)
    ranges = pydoc_crawl.warc.split(FS, str(path), path.stat().st_size, params)
    rows = [row for start, end in ranges for batch in pydoc_crawl.read(FS, str(path), start, end, params)
            for row in batch.to_pylist()]  # fmt: skip
    urls = [row["url"].removeprefix("http://pydoc.localhost") for row in rows]
    assert len(rows) == len(set(urls)) == 14
    assert urls[0] == "/"
    assert {"/topics.html", "/keywords.html"} <= set(urls)
    assert {row["verdict"] for row in rows} == {KEPT, DROPPED}  # the style sheet is no page
    assert [row["reason"] for row in rows if row["url"].endswith(".css")] == ["content_type"]
    assert all(row["charset"] == "UTF-8" for row in rows if row["verdict"] == KEPT)
    index = rows[0]["html"].decode()
    assert "site-packages" not in index
    assert "pytest" not in index


def test_links_stay_on_the_site():
    page = b"""<a href="json.html#x">a</a> <a href='no'>b</a> <a href="topic?key=IF&amp;x=1">c</a>
        <a href="file:/etc/x"> <a href="http://other.example/">d</a> <a href="search?key=x">e</a>
        <a href="get?key=x">f</a> <a href="//[bad">
        <a href="antigravity.html">g</a> <a href="test.support.html">h</a> <a href="index.html">i</a>
        <a href="unittest.test.html">j</a> <a href="textwrap.html">k</a> <link rel="x" href="pydoc_data/_pydoc.css">
        <a href="a%0Ab.html">l</a> <a href="caf\xc3\xa9.html">m</a> <a href="\xff.html">n</a>"""
    assert list(pydoc_crawl._links("/topics.html", page)) == [
        "/json.html", "/topic?key=IF&x=1", "/", "/textwrap.html", "/pydoc_data/_pydoc.css", "/a%0Ab.html"]  # fmt: skip


def test_prepare_reuses_a_finished_file_and_believes_no_half_one(tmp_path, monkeypatch):
    finished = tmp_path / "pydoc.warc.gz"
    finished.write_bytes(b"finished")
    assert pydoc_crawl.prepare(pydoc_crawl.Pydoc(), tmp_path) == [str(finished)]
    assert finished.read_bytes() == b"finished"
    finished.unlink()

    def stopped(stream, *_):
        stream.write(b"half of a crawl")
        raise KeyboardInterrupt

    monkeypatch.setattr(pydoc_crawl, "_crawl", stopped)
    with pytest.raises(KeyboardInterrupt):
        pydoc_crawl.prepare(pydoc_crawl.Pydoc(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hanging_page_is_counted_and_the_crawl_goes_on(tmp_path, monkeypatch):
    fetch = pydoc_crawl._fetch

    def moody(port, target):
        if target == "/topics.html":
            raise TimeoutError("timed out")
        return fetch(port, target)

    monkeypatch.setattr(pydoc_crawl, "_fetch", moody)
    counts = pydoc_crawl.crawl(tmp_path / "x.warc.gz", max_pages=4)
    assert (counts["pages"], counts["failed"]) == (4, 1)
