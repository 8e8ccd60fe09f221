"""Speed of the extraction engines against bare loops of the libraries, on the same pages in the same run.

The stage also decodes by header, `<meta>` and detection, measures the markup, reads the title and cleans the text; the
bare loops decode UTF-8 and extract. Every sixth page of the gold set, in Arrow batches of 64.
"""

from __future__ import annotations

import base64
import cProfile
import pstats
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import best, need, peer, table
from pipeline.stage import Batch
from stages.extract import ExtractParams, extract

BATCH, REPEAT, EVERY = 64, 2, 6
OURS = {
    "cascade (default)": ({}, "trafilatura"),
    "cascade, recall": ({"mode": "recall"}, "trafilatura"),
    "resiliparse": ({"engine": "resiliparse"}, "resiliparse"),
    "trafilatura": ({"engine": "trafilatura"}, "trafilatura"),
    "trafilatura, fast": ({"engine": "trafilatura", "mode": "fast"}, "trafilatura, fast"),
}


def batches(html: pa.Array) -> list[Batch]:
    """Batches as ingestion gives them: HTML with a declared charset, no text."""
    parts = [html.slice(at, BATCH) for at in range(0, len(html), BATCH)]
    return [
        Batch({"html": part, "text": pa.nulls(len(part), pa.string()), "charset": pa.array(["utf-8"] * len(part)),
               "content_type": pa.array(["text/html"] * len(part))}, len(part))
        for part in parts
    ]  # fmt: skip


def loop(data: list[Batch], params: ExtractParams) -> Callable[[], None]:
    def work() -> None:
        for batch in data:
            extract(batch, params, None)  # type: ignore[arg-type]

    return work


def profile(work: Callable[[], None]) -> str:
    """Share of the cascade's time by what it calls: the line that says what bounds it."""
    recorder = cProfile.Profile()
    recorder.runcall(work)
    calls = pstats.Stats(recorder).stats  # type: ignore[attr-defined]
    total = max(timing[3] for timing in calls.values())
    shares = {
        label: sum(timing[3] for (_, _, name), timing in calls.items() if function in name) / total
        for label, function in (
            ("trafilatura on the pages that resiliparse left empty", "by_trafilatura"),
            ("resiliparse's text", "by_resiliparse"),
            ("decoding", "decode"),
            ("measure of the markup", "markup_extent"),
        )
    }
    rest = 1 - sum(shares.values())
    return "; ".join(f"{label} {share:.0%}" for label, share in shares.items()) + f"; tree, title, cleaning {rest:.0%}"


def run() -> str:
    html = pq.read_table(need("extraction", "extraction_gold.parquet"), columns=["html"])["html"].combine_chunks()
    html = html.take(pa.array(range(0, len(html), EVERY)))
    pages = html.to_pylist()
    data = batches(html)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages"
        path.write_bytes(b"\n".join(base64.b64encode(page) for page in pages))
        bare = peer("extraction_bare.py", {"pages": str(path), "repeat": REPEAT})
    lines = []
    for name, (params, against) in OURS.items():
        seconds = best(loop(data, ExtractParams(**params)), REPEAT)
        lines.append([f"tamis `{name}`", len(pages) / seconds, against, bare["seconds"][against] / seconds])
    lines += [[f"bare {name}", len(pages) / seconds, "", ""] for name, seconds in bare["seconds"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in bare["versions"].items())
    return "\n\n".join([
        f"## Extraction ({len(pages)} pages, {sum(map(len, pages)) / 1e6:.0f} MB of HTML)",
        table(["loop", "pages/CPU-s", "bare loop compared with", "times its speed"], lines),
        f"Peers: {versions}. Profile of the cascade: {profile(loop(data, ExtractParams()))}.",
    ])  # fmt: skip


if __name__ == "__main__":
    print(run())
