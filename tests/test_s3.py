"""Sources on S3, against a real server of the S3 protocol on loopback: globs, ranges, and errors of one line."""

from __future__ import annotations

import urllib.request

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from source_files import noise, response

from pipeline.errors import TamisError
from pipeline.stage import KEPT
from pipeline.storage import list_files, open_filesystem
from stages.ingest import jsonl, parquet, warc

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(server, monkeypatch):
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="crawl")
    for number in (1, 2):
        body = b"".join(response(f"{number}-{i}", noise(i)) for i in range(30))
        client.put_object(Bucket="crawl", Key=f"2026/segment {number}/x{number}.warc.gz", Body=body)
    client.put_object(Bucket="crawl", Key="2026/notes.jsonl", Body=b'{"text": "one"}\n{"text": "two"}\n')
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(100)]}), sink, row_group_size=10)
    client.put_object(Bucket="crawl", Key="2026/x.parquet", Body=sink.getvalue().to_pybytes())
    return client


def rows(module, params, uri):
    filesystem, path = open_filesystem(uri)
    size = filesystem.get_file_info(path).size
    return [
        row
        for start, end in module.split(filesystem, path, size, params)
        for batch in module.read(filesystem, path, start, end, params)
        for row in batch.to_pylist()
    ]


def test_globs_over_a_prefix(store):
    files = list_files("s3://crawl/2026/segment */x?.warc.gz")
    assert [file.key for file in files] == ["segment 1/x1.warc.gz", "segment 2/x2.warc.gz"]
    assert files[0].uri == "s3://crawl/2026/segment 1/x1.warc.gz"
    assert files[0].size > 10_000
    assert [file.key for file in list_files("s3://crawl/2026/*.jsonl")] == ["notes.jsonl"]
    assert [file.key for file in list_files("s3://crawl/**/*.warc.gz")] == [f"2026/{file.key}" for file in files]
    before = files[0].version
    store.put_object(Bucket="crawl", Key="2026/segment 1/x1.warc.gz", Body=response("other"))
    assert list_files(files[0].uri)[0].version != before


def test_files_are_read_in_ranges(store):
    (file,) = list_files("s3://crawl/2026/segment 1/*.gz")
    found = rows(warc, warc.Warc(slice_bytes=5000), file.uri)
    assert [row["url"].rpartition("/")[2] for row in found] == [f"1-{i}" for i in range(30)]
    assert {row["verdict"] for row in found} == {KEPT}
    assert [row["text"] for row in rows(jsonl, jsonl.Jsonl(), "s3://crawl/2026/notes.jsonl")] == ["one", "two"]
    found = rows(parquet, parquet.Parquet(slice_rows=20), "s3://crawl/2026/x.parquet")
    assert [row["text"] for row in found] == [f"text {i}" for i in range(100)]


def test_what_is_not_there_is_nothing_or_one_line(store):
    assert list_files("s3://crawl/none.gz") == []
    assert list_files("s3://crawl/none/*.gz") == []
    filesystem, path = open_filesystem("s3://crawl/2026/none.gz")
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_file(path)


def test_an_unreachable_store_is_one_clear_line(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TamisError) as caught:
        list_files("s3://crawl/2026/*.gz")
    assert "\n" not in str(caught.value)
    assert "s3://crawl/2026" in str(caught.value)


def test_wrong_credentials_are_one_clear_line(store, server, monkeypatch):
    def check_credentials(first_free: bytes) -> None:
        request = urllib.request.Request(f"{server}/moto-api/reset-auth", first_free, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    check_credentials(b"0")
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        for pattern in ("s3://crawl/2026/*.gz", "s3://crawl/2026/notes.jsonl"):
            with pytest.raises(TamisError) as caught:
                list_files(pattern)
            assert "\n" not in str(caught.value)
            assert pattern in str(caught.value)
            assert "ACCESS_DENIED" in str(caught.value) or "INVALID_ACCESS_KEY_ID" in str(caught.value)
    finally:
        check_credentials(b"inf")
