"""Finding source files by path, folder and glob; keys that do not depend on where the folder is."""

from __future__ import annotations

import functools
import http.server
import os
import threading

import pytest

from pipeline.errors import TamisError
from pipeline.storage import list_files, open_filesystem, publish


@pytest.fixture
def tree(tmp_path):
    for name in ("a/x1.gz", "a/x2.gz", "a/y.txt", "b/x1.gz", "b/c/x3.gz", "odd [1].gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("a/x1.gz", ["x1.gz"]),
        ("a", ["x1.gz", "x2.gz", "y.txt"]),
        ("a/*.gz", ["x1.gz", "x2.gz"]),
        ("a/x?.gz", ["x1.gz", "x2.gz"]),
        ("a/x[2-9].gz", ["x2.gz"]),
        ("a/x[!2].gz", ["x1.gz"]),
        ("*/x1.gz", ["a/x1.gz", "b/x1.gz"]),
        ("**/*.gz", ["a/x1.gz", "a/x2.gz", "b/c/x3.gz", "b/x1.gz", "odd [1].gz"]),
        ("b/**/x3.gz", ["c/x3.gz"]),
        ("none/*.gz", []),
        ("none.gz", []),
    ],
)
def test_patterns(tree, pattern, keys):
    files = list_files(f"{tree}/{pattern}")
    assert [file.key for file in files] == keys
    for file in files:
        filesystem, path = open_filesystem(file.uri)
        assert filesystem.open_input_file(path).read() == b"data"


def test_a_relative_path_and_a_file_uri(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [file.key for file in list_files("a/*.txt")] == ["y.txt"]
    assert [file.key for file in list_files(f"file://{tree}/a/*.txt")] == ["y.txt"]


def test_an_unknown_scheme_is_one_line():
    with pytest.raises(TamisError) as caught:
        list_files("gopher://host/x")
    assert "\n" not in str(caught.value)


def test_publish_replaces_whole_files(tmp_path):
    path = tmp_path / "sub" / "a.json"
    publish(path, b"one")
    publish(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_file_on_the_web(tree):
    """Over HTTP on loopback: found without listing, read in ranges or whole, and a missing one is one clear line."""
    handler = functools.partial(QuietHandler, directory=str(tree))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/a/x1.gz"
        (file,) = list_files(url)
        assert (file.key, file.size) == ("x1.gz", 4)
        filesystem, path = open_filesystem(file.uri)
        assert filesystem.open_input_file(path).read() == b"data"
        with pytest.raises(TamisError) as caught:
            list_files(url.replace("x1", "none"))
        assert "\n" not in str(caught.value)
    finally:
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass
