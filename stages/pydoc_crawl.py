"""`pydoc`: a real crawl that every machine can make, of the documentation that Python serves of itself.

`pydoc` serves the standard library's documentation over HTTP; this module starts it on loopback in an isolated
interpreter (no third-party packages), follows its links breadth first, and writes requests and responses as a true
WARC. The ephemeral port is left out of the record: every target URI is below `http://pydoc.localhost/`, so that
documents keep their ids from run to run. A half-written crawl is never believed. Cost: about 20 seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from pydantic import Field
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.stage import StageError, source_format
from stages import warc

HOST = "http://pydoc.localhost/"
STARTUP_SECONDS = 30
PAGE_SECONDS = 20
SERVER = """
import pydoc, sys
sys.argv = ["pydoc"]
thread = pydoc._start_server(pydoc._url_handler, "127.0.0.1", 0)
if thread.error: sys.exit(thread.error)
print(thread.docserver.server_port, flush=True)
sys.stdin.read()
"""
# pages that run commands, need a search, leave the standard library's documentation, or do things when imported
SKIP = re.compile(r"^/(search|getfile|open|get)|^/(antigravity|this|test|idlelib|lib2to3|turtledemo|pydoc_data)\b")


class PydocParams(warc.WarcParams):
    max_pages: int = Field(700, ge=1, description="pages to fetch at most")
    max_seconds: float = Field(120, gt=0, description="time after which the crawl ends with what it has")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def links(base: str, html: str) -> list[str]:
    """Paths (with query) of the pages on the same host that a page links to, in order, without fragments."""
    parser = _Links()
    parser.feed(html)
    paths = []
    for link in parser.found:
        with contextlib.suppress(ValueError):
            parts = urlsplit(urldefrag(urljoin(HOST + base.lstrip("/"), link))[0])
            path = quote(unquote(parts.path), safe="/.-_~") + (f"?{parts.query}" if parts.query else "")
            if parts.netloc == urlsplit(HOST).netloc and not SKIP.match(path):
                paths.append(path)
    return list(dict.fromkeys(paths))


def crawl(
    out: Path, max_pages: int = 700, max_seconds: float = 120, progress: Callable[[int], None] | None = None
) -> dict:
    """Crawl into the WARC file `out`, which appears only when it is complete. Returns counts of pages and bytes.

    Raises StageError when the documentation server does not start.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    environment = {**os.environ, "BROWSER": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    server = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = server.stdout.readline().strip()
        if not line.isdigit():
            raise StageError(f"pydoc: expected the documentation server to start, found {line!r}")
        with open(temporary, "wb") as stream:
            counts = _crawl(int(line), stream, max_pages, max_seconds, progress or (lambda _pages: None))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, out)
    finally:
        server.kill()
        server.wait()
        temporary.unlink(missing_ok=True)
    return counts


def _crawl(
    port: int, stream: io.BufferedWriter, max_pages: int, max_seconds: float, progress: Callable[[int], None]
) -> dict:
    writer = WARCWriter(stream, gzip=True)
    info = {"software": "tamis sample-crawl", "format": "WARC File Format 1.0", "robots": "none served"}
    writer.write_record(writer.create_warcinfo_record("pydoc.warc.gz", info))
    queue, seen = deque(["/", "/topics.html", "/keywords.html"]), {"/", "/topics.html", "/keywords.html"}
    pages = size = errors = 0
    deadline = time.monotonic() + max_seconds
    while queue and pages + errors < max_pages and time.monotonic() < deadline:
        path = queue.popleft()
        try:
            status, reason, headers, body = _fetch(port, path)
        except (OSError, http.client.HTTPException):
            errors += 1
            continue
        _record(writer, path, status, reason, headers, body)
        pages, size = pages + 1, size + len(body)
        progress(pages)
        for link in links(path, body.decode("utf-8", "replace")):
            if link not in seen:
                seen.add(link)
                queue.append(link)
    return {"pages": pages, "bytes": size, "errors": errors, "left": len(queue)}


def _fetch(port: int, path: str) -> tuple[int, str, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PAGE_SECONDS)
    try:
        connection.request("GET", path, headers={"User-Agent": "tamis-sample-crawl"})
        response = connection.getresponse()
        return response.status, response.reason, response.getheaders(), response.read()
    finally:
        connection.close()


def _record(writer: WARCWriter, path: str, status: int, reason: str, headers: list, body: bytes) -> None:
    url = HOST + path.lstrip("/")
    sent = [("Host", "pydoc.localhost"), ("User-Agent", "tamis-sample-crawl")]
    request = StatusAndHeaders(f"GET {path} HTTP/1.1", sent, is_http_request=True)
    answer = StatusAndHeaders(f"{status} {reason}", headers, protocol="HTTP/1.0")
    response = writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=answer)
    asked = writer.create_warc_record(url, "request", payload=io.BytesIO(b""), http_headers=request)
    writer.write_request_response_pair(asked, response)


def prepare(params: PydocParams, folder: Path) -> list[str]:
    """The crawl for a run: made once, used again afterwards."""
    out = folder / "pydoc.warc.gz"
    if not out.exists():
        crawl(out, params.max_pages, params.max_seconds)
    return [str(out)]


source_format("pydoc", PydocParams, split=warc.split, prepare=prepare)(warc.read)
