"""Personal data scrubbing: MB of text per CPU-second beside datatrove's formatter and dolma's rules, and a profile.

Same texts, same run: documents of the near-duplicate gold set (web text and manuals in many languages). datatrove
rewrites e-mails and IPv4; dolma's rules only find e-mail, IPv4 and US telephone numbers; Tamis finds and replaces all
seven types. The second table has fragments of patterns repeated, which is where expressions backtrack: the time per
byte of a text ten times as long shows that it stays linear.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import best, need, peer, table
from stages.pii import KINDS, Pii, find, scrub

PEER_BYTES = 8_000_000
BOMBS = (
    "a@",
    "a@b.",
    "1.1.1.1.",
    "+1-(",
    "+1 23 ",
    "GB82 ",
    "1234 ",
    "eyJ",
    "password=",
    "://",
    "a@b.com+49301234567 ",
)


def _texts() -> pa.Array:
    return pq.read_table(need("neardup", "docs.parquet"), columns=["text"])["text"].combine_chunks()


def _batches(text: pa.Array) -> list[pa.Array]:
    return [text.slice(start, 256) for start in range(0, len(text), 256)]


def run() -> str:
    text = _texts()
    batches, size = _batches(text), sum(len(t.as_buffer()) for t in text if t.is_valid) / 1e6

    def speed(params: Pii, function=scrub) -> float:
        arguments = (params,) if function is find else (params, 0)
        return size / best(lambda: [function(batch, *arguments) for batch in batches])

    full = speed(Pii())
    lengths = np.cumsum([len(t.as_buffer()) for t in text])
    sample = text.slice(0, int(np.searchsorted(lengths, PEER_BYTES)))
    sample_size = int(lengths[len(sample) - 1]) / 1e6
    parts = _batches(sample)
    ours = sample_size / best(lambda: [scrub(batch, Pii(), 0) for batch in parts])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in sample.to_pylist()), encoding="utf-8")
        answers = {name: peer(f"pii_{name}.py", {"texts": str(path)}) for name in ("datatrove", "dolma")}
    rows: list[list] = [["tamis, 7 types", "find and replace", ours, 1.0]]
    for name, answer in answers.items():
        rate = sample_size / answer["seconds"]
        what = "e-mail, IPv4: replace" if name == "datatrove" else "e-mail, IPv4, US phone: find"
        rows.append([f"{name} {answer['version']}", what, rate, ours / rate])
    profile = [["all, find only", speed(Pii(), find)], ["all, replaced by fakes", speed(Pii(replace="fake"))]]
    profile += [[f"{kind} only, find", speed(Pii(types=(kind,)), find)] for kind in KINDS]
    linear = []
    for bomb in BOMBS:
        small, large = (pa.array([bomb * (count // len(bomb))]) for count in (200_000, 2_000_000))
        once, ten = (best(lambda one=one: scrub(one, Pii(), 0)) for one in (small, large))
        linear.append([f"`{bomb.strip()}`", 2.0 / max(ten, 1e-9), ten / max(once, 1e-9)])
    return f"""## Personal data

{size:.0f} MB of text: **{full:.0f} MB per CPU-second** for all types, found and replaced (goal: 20).

{table(["on the first " + f"{sample_size:.0f} MB", "does", "MB/CPU-s", "tamis is x times as fast"], rows)}

What bounds it, by types asked for:

{table(["types", "MB/CPU-s"], profile)}

With one type, most of the time is the look-up of each byte in the anchor table, which is the floor of the scan; what
the full scan adds are the matchers at digits, `:` and `=`. Replacing adds a copy of the text and a second scan of the
documents that changed.

Repeated fragments of patterns; ten times the text should take about ten times as long:

{table(["fragment", "MB/CPU-s", "time of 2 MB over 0.2 MB"], linear)}"""


if __name__ == "__main__":
    print(run())
