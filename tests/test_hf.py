"""Hugging Face dataset files: the real file system of `huggingface_hub` against a small hub on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from urllib.parse import parse_qs, unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import list_files, open_filesystem
from stages.ingest import arrow, jsonl, parquet

COMMIT = "1" * 40
REPO = "/api/datasets/owner/set"


def packed(make, texts):
    sink, table = pa.BufferOutputStream(), pa.table({"text": texts})
    if make == "parquet":
        pq.write_table(table, sink, row_group_size=10)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, 10)
    return sink.getvalue().to_pybytes()


FILES = {
    "data/a.parquet": packed("parquet", [f"a{i}" for i in range(50)]),
    "data/b.parquet": packed("parquet", ["b0"]),
    "data/x.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "data/deep/c.arrow": packed("arrow", [f"c{i}" for i in range(30)]),
}


def entry(path):
    return {"type": "file", "path": path, "size": len(FILES[path]), "oid": hashlib.sha1(FILES[path]).hexdigest()}


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of the hub's API that reading a public data set makes."""

    protocol_version = "HTTP/1.1"
    ranges: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_GET

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        url = urlparse(self.path)
        path = unquote(url.path)
        name = path.partition("/resolve/")[2].partition("/")[2]
        if path in (REPO, f"{REPO}/revision/main"):
            self.send({"id": "owner/set", "sha": COMMIT, "private": False, "siblings": [], "tags": []})
        elif path.startswith(f"{REPO}/tree/"):
            folder = path.removeprefix(f"{REPO}/tree/").partition("/")[2]
            self.send(self.tree(folder, parse_qs(url.query).get("recursive") == ["true"]))
        elif path.startswith(f"{REPO}/paths-info/"):
            fields = json.loads(body) if body.startswith("{") else parse_qs(body)
            self.send([entry(wanted) for wanted in fields["paths"] if wanted in FILES])
        elif name in FILES:
            self.file(FILES[name], entry(name)["oid"])
        else:
            self.send({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def tree(self, folder, recursive):
        prefix = f"{folder}/" if folder else ""
        below = [path for path in FILES if path.startswith(prefix)]
        found = [entry(path) for path in below if recursive or "/" not in path.removeprefix(prefix)]
        folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in below if "/" in path[len(prefix) :]}
        return found + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]

    def file(self, data, oid):
        asked, status, headers = self.headers.get("Range"), 200, {"ETag": f'"{oid}"', "X-Repo-Commit": COMMIT}
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            status, headers["Content-Range"] = 206, f"bytes {first}-{end - 1}/{len(data)}"
            data = data[int(first) : end]
            Hub.ranges.append(asked)
        self.send(data, status, headers)

    def send(self, data, status=200, headers=None):
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def hub():
    from huggingface_hub import HfFileSystem, constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("HF_ENDPOINT", endpoint)
    patch.setattr(constants, "ENDPOINT", endpoint)  # both are made once, when the library is imported
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    HfFileSystem.clear_instance_cache()
    yield
    HfFileSystem.clear_instance_cache()
    patch.undo()
    server.shutdown()


def rows(module, params, file):
    filesystem, path = open_filesystem(file.uri)
    return [
        row["text"]
        for start, end in module.split(filesystem, path, file.size, params)
        for batch in module.read(filesystem, path, start, end, params)
        for row in batch.to_pylist()
    ]


@pytest.mark.usefixtures("hub")
def test_globs_and_versions():
    files = list_files("hf://datasets/owner/set/data/*.parquet")
    assert [(file.key, file.size) for file in files] == [
        (path.removeprefix("data/"), len(FILES[path])) for path in ("data/a.parquet", "data/b.parquet")
    ]
    assert files[0].uri == "hf://datasets/owner/set/data/a.parquet"
    assert entry("data/a.parquet")["oid"] in files[0].version
    assert [file.key for file in list_files("hf://datasets/owner/set/**/*.arrow")] == ["data/deep/c.arrow"]
    assert list_files("hf://datasets/owner/set/data/*.none") == []


@pytest.mark.usefixtures("hub")
def test_files_are_read_in_ranges():
    before = len(Hub.ranges)
    (file,) = list_files("hf://datasets/owner/set/data/a.parquet")
    assert rows(parquet, parquet.Parquet(slice_rows=20), file) == [f"a{i}" for i in range(50)]
    (file,) = list_files("hf://datasets/owner/set/data/x.jsonl")
    assert rows(jsonl, jsonl.Jsonl(), file) == ["one", "two"]
    (file,) = list_files("hf://datasets/owner/set/data/deep/*.arrow")
    assert rows(arrow, arrow.Arrow(slice_rows=10), file) == [f"c{i}" for i in range(30)]
    assert len(Hub.ranges) > before
