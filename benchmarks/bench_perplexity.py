"""Perplexity: speed of scoring with words and pieces, against datatrove's way; both builders; memory of workers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import best, cpu_seconds, english_documents, peer, table
from pipeline.stage import Batch
from stages.kenlm_build import builder
from stages.kenlm_score import load_model, perplexities
from stages.lm_text import LmText, Pieces
from stages.perplexity import PerplexityParams, perplexity
from stages.text_normal import SCORED_BYTES, normalisation
from stages.train_lm import TrainLmParams, train_lm

BATCH = 256
_WORKER = """
import sys
from pathlib import Path
from stages.kenlm_score import load_model
model = load_model(Path(sys.argv[1]))
print(model.score("the model is loaded"), flush=True)
sys.stdin.readline()
rows = iter(open("/proc/self/smaps"))
next(row for row in rows if sys.argv[1] in row)
size = {}
for row in rows:
    size[row.split()[0]] = row.split()[1]
    if row.startswith("VmFlags"):
        break
print(size["Rss:"], size["Pss:"], size["Private_Dirty:"], flush=True)
sys.stdin.readline()
"""


class _Corpus:
    """Documents in memory; `batches` is all that training uses."""

    def __init__(self, texts: list[str]) -> None:
        ids = [hashlib.md5(text.encode()).hexdigest() for text in texts]
        self.columns = {"doc_id": pa.array(ids), "text": pa.array(texts)}
        self.num_docs = len(texts)

    def batches(self, *names: str) -> Iterator[Batch]:
        for start in range(0, self.num_docs, BATCH):
            size = min(BATCH, self.num_docs - start)
            yield Batch({name: self.columns[name].slice(start, size) for name in names}, size)


class _Tools:
    seed, node = 1, "train_lm"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def artifact(self, node: str) -> Path:
        assert self.folder is not None
        return self.folder


def _train(corpus: Any, folder: Path, **params: Any) -> tuple[float, dict[str, Any]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = cpu_seconds()
    metrics = train_lm(corpus, TrainLmParams(**params), folder, _Tools())
    return cpu_seconds() - start, metrics


def _memory(path: Path) -> str:
    """What two workers that hold a model have of it in memory, as a sentence."""
    command = [sys.executable, "-c", _WORKER, str(path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in both:
        assert worker.stdout is not None
        worker.stdout.readline()
    found = []
    for worker in both:
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(file=worker.stdin, flush=True)
        found.append([int(size) / 1024 for size in worker.stdout.readline().split()])
    for worker in both:
        worker.communicate("\n")
    resident, proportional, dirty = np.array(found).sum(axis=0)
    return (f"Two workers and this process map a model of {path.stat().st_size / 2**20:.0f} MiB: of the two resident "
            f"{resident:.0f} MiB, their share of physical memory (proportional set size) {proportional:.0f} MiB, "
            f"private {dirty:.0f} MiB.")  # fmt: skip


def _profile(texts: pa.Array, model: Any, text: LmText) -> tuple[float, float, float]:
    """CPU seconds of normalising, of cutting into pieces, and of KenLM."""
    parts = [texts.slice(start, BATCH) for start in range(0, len(texts), BATCH)]
    normal = best(lambda: [text.normal(part, SCORED_BYTES) for part in parts])
    units = best(lambda: [text(part, SCORED_BYTES) for part in parts])
    whole = best(lambda: [perplexities(model, text, part, SCORED_BYTES) for part in parts])
    return normal, units - normal, whole - units


def run() -> str:
    texts = english_documents(10_000)
    learn, judge = _Corpus(texts[:6_000]), _Corpus(texts[6_000:])
    scored = judge.columns["text"]
    megabytes = sum(len(text.encode()) for text in texts[6_000:]) / 1e6
    made_by = builder("auto")
    lines, profile, training, peer_rows = [], [], [], ""
    with tempfile.TemporaryDirectory() as scratch:
        for units, name in (
            ("words", "tamis/1"), ("sentencepiece", "tamis/1"), ("words", "ccnet/1"), ("sentencepiece", "datatrove/1")
        ):  # fmt: skip
            folder = Path(scratch) / f"{units}-{name[:-2]}"
            seconds, metrics = _train(learn, folder, units=units, normalisation=name, pieces=32_768)
            if name == "tamis/1":
                training.append([made_by, units, metrics["train_units"], seconds, metrics["train_units"] / seconds])
            params, tools = PerplexityParams(), _Tools(folder)
            out: dict[str, Any] = {}

            def score(params=params, tools=tools, out=out) -> None:
                found = [perplexity(batch, params, tools)["score"] for batch in judge.batches("doc_id", "text")]
                out["score"] = pa.concat_arrays(found)

            ours = best(score)
            lines.append([f"perplexity, {units}, {name}", megabytes / ours, len(texts[6_000:]) / ours])
            pieces_file = folder / "pieces.model"
            pieces = Pieces(pieces_file.read_bytes(), "") if units == "sentencepiece" else None
            model_file = next(folder.glob("model-0.*"))
            text, model = LmText(normalisation(name), pieces), load_model(model_file)
            profile.append(
                [f"{units}, {name}", *(megabytes / max(part, 1e-9) for part in _profile(scored, model, text))]
            )
            if name == "datatrove/1":
                alone = best(lambda text=text, model=model: perplexities(model, text, scored, SCORED_BYTES))
                job = {"texts": scored.to_pylist(), "model": str(model_file), "pieces": str(pieces_file), "repeat": 3}
                answer = peer("perplexity_datatrove.py", job)
                theirs = np.array(answer["scores"])
                values = perplexities(model, text, scored, SCORED_BYTES).astype(np.float64)
                equal = float(np.mean(np.abs(values - theirs) <= 0.05 + 1e-4 * theirs))
                lines.append(["datatrove 0.10, the same model", megabytes / answer["seconds"],
                              len(theirs) / answer["seconds"]])  # fmt: skip
                peer_rows = (f"Ratio to datatrove on the same model: **{answer['seconds'] / alone:.1f}**; scores "
                             f"equal to its rounding (.1) on {100 * equal:.2f} % of documents, the rest differ by "
                             f"at most {100 * float(np.max(np.abs(values - theirs) / theirs)):.2f} % (ties between "
                             "two segmentations of a word).")  # fmt: skip
        memory = _memory(Path(scratch) / "words-tamis" / "model-0.klm") if made_by == "lmplz" else ""
        seconds, metrics = _train(learn, Path(scratch) / "python", builder="python")
        training.append(["python", "words", metrics["train_units"], seconds, metrics["train_units"] / seconds])
    ratio = ""
    if made_by == "lmplz":
        ratio = (
            f"lmplz learns {training[0][4] / training[-1][4]:.0f} times as many words in a CPU-second as pure Python."
        )
    return "\n\n".join(
        part
        for part in (
            f"## Perplexity\n\n{len(scored):,} English documents, {megabytes:.1f} MB; order 5, {made_by}; one process.",
            table(["scorer", "MB per CPU-second", "documents per CPU-second"], lines),
            peer_rows,
            "What bounds it, as MB per CPU-second of each step alone:",
            table(["units, normalisation", "normalising", "cutting into pieces", "KenLM"], profile),
            "KenLM's Python binding splits a line and hashes each word; then each word costs some probes of hash "
            "tables that no cache holds. Both grow with the number of units, so pieces cost more than words.",
            memory,
            table(["builder", "units", "units learnt", "CPU seconds", "units per CPU-second"], training),
            ratio,
        )
        if part
    )


if __name__ == "__main__":
    print(run())
