"""Gopher, C4 and FineWeb statistics: speed beside datatrove's filters, and whether the decisions are the same.

Speed on English documents of 1.3 kB, all statistics of the four stages together. Agreement on every page of the
crawl data, extracted with the resiliparse engine: the `datatrove` variants decide as the installed datatrove.
What could still differ, and in which cases: see `stages/kernels/tokens.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

import stages
from benchmarks.common import best, cpu_seconds, english_documents, need, peer, table
from pipeline.stage import KEPT, Batch, stage_types
from stages.kernels import tokens, words

FAST = {"gopher_quality": "paper", "gopher_repetition": "paper", "c4": "tfds", "fineweb": "paper"}
EXACT = {"gopher_quality": "datatrove", "gopher_repetition": "datatrove", "c4": "datatrove", "fineweb": "code"}
BATCH = 256
PEER_DOCS = 1000


def crawl_texts(limit: int | None = None) -> list[str]:
    """Texts of the first `limit` HTML pages of the crawl data, as the default extraction leaves them."""
    stages.load_all()
    from stages.extract import ExtractParams, extract
    from stages.ingest import warc

    texts: list[str] = []
    for path in sorted(need("crawl").glob("*.warc.gz")):
        for start, end in warc.split(pafs.LocalFileSystem(), str(path), path.stat().st_size, warc.Warc()):
            for batch in warc.read(pafs.LocalFileSystem(), str(path), start, end, warc.Warc()):
                chosen = batch.filter(pa.array(np.asarray(batch["verdict"]) == KEPT))
                rows = Batch({name: chosen[name] for name in chosen.schema.names}, chosen.num_rows)
                texts += [text for text in extract(rows, ExtractParams(), None).columns["text"].to_pylist() if text]
                if limit is not None and len(texts) >= limit:
                    return texts[:limit]
    return texts


def batches(texts: Sequence[str]) -> Iterator[Batch]:
    for start in range(0, len(texts), BATCH):
        part = pa.array(texts[start : start + BATCH], pa.string())
        yield Batch({"text": part}, len(part))


def keeps(texts: Sequence[str], stage: str, **params: Any) -> np.ndarray:
    """bool for each text: do all published rules of the stage hold?"""
    kind = stage_types()[stage]
    chosen = kind.params(**params)
    found = []
    for batch in batches(texts):
        columns = kind.run(batch, chosen, None)
        found.append(np.logical_and.reduce([rule.holds(columns[rule.column]) for rule in kind.rules(chosen)]))
    return np.concatenate(found)


FILTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gopher_quality": ("gopher_quality", {"variant": "datatrove"}),
    "gopher_repetition": ("gopher_repetition", {"variant": "datatrove"}),
    "c4": ("c4", {"variant": "datatrove"}),
    "c4_no_end_mark": ("c4", {"variant": "datatrove", "terminal_punctuation": False}),
    "fineweb": ("fineweb", {"variant": "code"}),
}


def datatrove(texts: Sequence[str], filters: Sequence[str]) -> dict[str, Any]:
    """What benchmarks/peers/heuristics_datatrove.py says of the texts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps(text) + "\n" for text in texts))
        return peer("heuristics_datatrove.py", {"texts": str(path), "filters": list(filters)})


def differences(texts: Sequence[str], filters: Sequence[str]) -> dict[str, dict[int, tuple[bool, str | None]]]:
    """Filter -> row -> (kept here, datatrove's reason or null) for each text on which the two disagree."""
    stages.load_all()
    theirs = datatrove(texts, filters)["decisions"]
    found: dict[str, dict[int, tuple[bool, str | None]]] = {}
    for name in filters:
        stage, params = FILTERS[name]
        ours = keeps(texts, stage, **params)
        pairs = enumerate(zip(ours.tolist(), theirs[name], strict=True))
        found[name] = {row: (kept, reason) for row, (kept, reason) in pairs if kept != (reason is None)}
    return found


def all_stages(texts: Sequence[str], variants: dict[str, str]) -> Callable[[], None]:
    """Every statistic of the four stages, batch by batch; stages share the passes over a batch as in a run."""
    kinds = [(stage_types()[name], stage_types()[name].params(variant=variant)) for name, variant in variants.items()]

    def once() -> None:
        for batch in batches(texts):
            for kind, params in kinds:
                kind.run(batch, params, None)

    return once


def profile(texts: Sequence[str], variants: dict[str, str]) -> str:
    """CPU microseconds of one document in each pass and stage."""
    ready = list(batches(texts))
    passes: list[tuple[str, Callable[[Batch], Any]]] = [("words", words.of), ("lines", words.lines_of)]
    if variants is EXACT:
        passes.append(("tokens", tokens.of))
    for name, variant in variants.items():
        kind = stage_types()[name]
        params = kind.params(variant=variant)
        passes.append((name, lambda batch, kind=kind, params=params: kind.run(batch, params, None)))
    parts = []
    for name, function in passes:
        start = cpu_seconds()
        for batch in ready:
            function(batch)
        parts.append(f"{name} {1e6 * (cpu_seconds() - start) / len(texts):.1f}")
    return ", ".join(parts)


def run() -> str:
    stages.load_all()
    texts = english_documents()
    fast = len(texts) / best(all_stages(texts, FAST))
    exact_run = all_stages(texts, EXACT)
    exact = len(texts) / best(exact_run)
    tokens.forget()
    start = cpu_seconds()
    exact_run()
    cold = len(texts) / (cpu_seconds() - start)
    theirs = datatrove(texts[:PEER_DOCS], list(EXACT))
    peer_speed = PEER_DOCS / sum(theirs["seconds"].values())
    speed = [
        ["paper, paper, tfds, paper", fast, fast / peer_speed],
        ["datatrove, datatrove, datatrove, code", exact, exact / peer_speed],
        ["the same, no word seen before", cold, cold / peer_speed],
        [f"datatrove {theirs['version']}, four filters", peer_speed, 1.0],
    ]
    pages = crawl_texts()
    found = differences(pages, list(FILTERS))
    agreement = [[name, len(pages), len(rows), f"{1 - len(rows) / len(pages):.3%}"] for name, rows in found.items()]
    return "\n\n".join(
        [
            "## Heuristic filters",
            f"All statistics of Gopher quality, Gopher repetition, C4 and FineWeb on {len(texts):,} English documents "
            f"of {sum(map(len, texts)) / len(texts):,.0f} characters (datatrove: the first {PEER_DOCS:,}).",
            table(["variants", "documents per CPU-second", "ratio"], speed),
            f"CPU us for a document, paper and tfds: {profile(texts, FAST)}.",
            f"CPU us for a document, datatrove: {profile(texts, EXACT)}.",
            "Decisions of the `datatrove` variants and of datatrove on the pages of the crawl:",
            table(["filter", "documents", "differ", "agree"], agreement),
        ]
    )


if __name__ == "__main__":
    print(run())
