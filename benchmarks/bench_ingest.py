"""Reading a crawl: this project's WARC reader against bare loops, and with extraction on top.

The bare loop is what one would write by hand over fastwarc and resiliparse: responses of status 200 with HTML, bodies
decoded, charset detected, main text extracted. fastwarc undoes the chunks and the loop gunzips, for its
`auto_decode="all"` (2.0.1) ends in silence behind the first body that is both chunked and gzipped. The loops
take turns, and the least CPU time of each counts, but for warcio and datatrove, which run once.
"""

from __future__ import annotations

import cProfile
import pstats
import time
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.fs as pafs
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from benchmarks.common import need, peer, table
from pipeline.stage import KEPT, Batch
from stages.extract import ExtractParams, extract
from stages.ingest import warc

ROUNDS = 3


def bare_fastwarc(path: Path) -> int:
    """Responses as stored: nothing decoded."""
    with open(path, "rb") as stream:
        return sum(1 for r in ArchiveIterator(stream, record_types=WarcRecordType.response) if r.reader.read() or True)


def _pages(path: Path):
    """Bodies of HTML pages, decoded."""
    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, auto_decode="transfer"):
            http = record.http_headers
            if http is None or http.status_code != 200 or record.http_content_type != "text/html":
                continue
            body = record.reader.read()
            if http.get("Content-Encoding") == "gzip" and body.startswith(b"\x1f\x8b"):
                body = zlib.decompress(body, 31)
            yield body


def bare_decoded(path: Path) -> int:
    return sum(1 for _ in _pages(path))


def bare_extracted(path: Path) -> int:
    count = 0
    for body in _pages(path):
        extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True, alt_texts=False)
        count += 1
    return count


def warcio_decoded(path: Path) -> int:
    with open(path, "rb") as stream:
        return sum(
            1 for r in WarcioIterator(stream) if r.rec_type == "response" and (r.content_stream().read() or True)
        )


def _batches(path: Path):
    filesystem, params = pafs.LocalFileSystem(), warc.Warc()
    for start, end in warc.split(filesystem, str(path), path.stat().st_size, params):
        yield from warc.read(filesystem, str(path), start, end, params)


def ours(path: Path) -> int:
    return sum(pc.sum(pc.equal(batch["verdict"], KEPT)).as_py() for batch in _batches(path))


def ours_extracted(path: Path) -> int:
    params, count = ExtractParams(engine="resiliparse"), 0
    for rows in _batches(path):
        live = rows.filter(pc.equal(rows["verdict"], KEPT))
        columns = {name: live[name] for name in ("html", "text", "charset", "content_type")}
        extract(Batch(columns, live.num_rows), params, None)  # type: ignore[arg-type]
        count += live.num_rows
    return count


LOOPS: dict[str, Callable[[Path], int]] = {
    "fastwarc, bodies as stored": bare_fastwarc,
    "fastwarc, bodies decoded": bare_decoded,
    "warcio, bodies decoded": warcio_decoded,
    "Tamis `warc`": ours,
    "fastwarc + resiliparse": bare_extracted,
    "Tamis `warc` + `extract` (resiliparse)": ours_extracted,
}
SLOW = {"warcio, bodies decoded"}


def _profile(path: Path) -> str:
    profile = cProfile.Profile()
    profile.runcall(ours, path)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in stats.values())

    def share(*words: str) -> str:
        found = sum(row[2] for key, row in stats.items() if any(word in f"{key[0]}:{key[2]}" for word in words))
        return f"{found / total:.0%}"

    return (
        f"Reading alone, by `cProfile` (which makes Python look dearer than it is): inflate {share('decompress')}, "
        f"header fields {share('headers.py', 're.Pattern')}, members and framing {share('members.py', 'framing.py')}, "
        f"rows and batches {share('records.py', '/warc.py')}."
    )


def run() -> str:
    path = need("crawl", "CRAWL-S-00000.warc.gz")
    counts, seconds = {}, dict.fromkeys(LOOPS, float("inf"))
    for turn in range(ROUNDS):
        for name, loop in LOOPS.items():
            if name in SLOW and turn > 0:
                continue
            start = time.process_time()
            counts[name] = loop(path)
            seconds[name] = min(seconds[name], time.process_time() - start)
    datatrove = peer("ingest_datatrove.py", {"path": str(path)})
    name = f"datatrove {datatrove['version']} `WarcReader`"
    counts[name], seconds[name] = datatrove["docs"], datatrove["seconds"]
    size = path.stat().st_size / 1e6
    read, whole = seconds["fastwarc, bodies decoded"], seconds["fastwarc + resiliparse"]
    rows = [
        [name, counts[name], seconds[name], size / seconds[name], seconds[name] / (whole if "resili" in name else read)]
        for name in sorted(seconds, key=lambda name: ("resili" in name, seconds[name]))
    ]
    header = ["loop", "documents", "CPU s", "MB/s (compressed)", "ratio to the bare loop"]
    return "\n\n".join([
        "## Reading a crawl",
        f"{path.name}: {size:.0f} MB, 5,290 responses, 312 MB of HTML in both shards. fastwarc "
        f"{metadata.version('fastwarc')}, resiliparse {metadata.version('resiliparse')}, warcio "
        f"{metadata.version('warcio')}. The bare loop of the last column is `fastwarc, bodies decoded` for reading, "
        "`fastwarc + resiliparse` for reading and extraction.",
        table(header, rows),
        f"Least of {ROUNDS} runs; warcio and datatrove ran once. Both extracting loops call resiliparse with the same "
        "options; the bare one detects each charset from the bytes, `extract` believes labels first, and counts "
        "tags and cleans the text besides. datatrove's reader sniffs types and drops XHTML taken for `text/xml`.",
        f"Goal: reading and extraction at most 1.2 times the bare loop; measured "
        f"{seconds['Tamis `warc` + `extract` (resiliparse)'] / whole:.2f}.",
        _profile(path),
    ])  # fmt: skip


if __name__ == "__main__":
    print(run())
