"""Probing: making requests, scoring them beside lm-evaluation-harness on one model, what sharing prefixes saves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.common import best, cpu_seconds, peer, table
from benchmarks.probe_models import NEOX_EOS, random_model, rows, set_threads, write_items
from trainer.probe_cli import probe
from trainer.probe_items import read_items, tokenise
from trainer.probes import BATCH_TOKENS, arrays, batches

TASKS = ("hellaswag", "openbookqa", "commonsense_qa")
SCORED, MADE = 100, 1000


def run() -> str:
    """Markdown: CPU seconds of requests and scores, ratios, and tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = random_model(folder / "model", width=256, layers=4)
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        write_items(folder / "many", folder / "unused", {task: rows(task)[:MADE] for task in TASKS})
        made = [_requests(tokenizer, folder / "many" / f"{task}.jsonl") for task in TASKS]
        files = write_items(folder / "items", folder / "raw", {task: rows(task)[:SCORED] for task in TASKS})
        threads = set_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        ours = []
        for task in TASKS:
            alone = folder / task
            alone.mkdir()
            (alone / f"{task}.jsonl").write_text((folder / "items" / f"{task}.jsonl").read_text())
            began = cpu_seconds()
            probe(model, alone)
            ours.append(cpu_seconds() - began)
        tasks = {task: {"file": file, "limit": None} for task, file in files.items()}
        theirs = peer("probes_lm_eval.py", {"model": str(model), "tasks": tasks, "threads": threads})
    scored = [[task, SCORED, mine, theirs[task]["cpu_seconds"], f"{theirs[task]['cpu_seconds'] / mine:.1f}x"]
              for task, mine in zip(TASKS, ours, strict=True)]  # fmt: skip
    return "\n\n".join([
        "## Probes",
        f"Making the requests of {MADE:,} items (OpenBookQA has 500), CPU seconds: reading, tokenising, sorting. "
        "`tokenizers` alone is its own `encode_batch` over the same strings, each once. Padding is the share of the "
        "tokens of a batch that are none; a shared prefix would compute a context once for all its choices.",
        table(["task", "requests", "CPU s", "`tokenizers` alone", "ratio", "padding", "tokens", "with shared prefixes"],
              [[task, *found] for task, found in zip(TASKS, made, strict=True)]),
        f"Scoring {SCORED} items on one thread, a random Llama of width 256 with 4 blocks and 50,304 ids, fp32, CPU "
        f"seconds with everything (lm-evaluation-harness {theirs['version']}: its evaluation alone, the model loaded "
        "before; ours with loading the weights, and with the unconditional requests that the harness does not make):",
        table(["task", "items", "tamis", "lm-eval", "lm-eval / tamis"], scored),
        "The harness makes the logits of every position; here only those of the answers are made. What bounds the "
        "rest is the forward pass over the contexts.",
    ])  # fmt: skip


def _requests(tokenizer: Tokenizer, path: Path) -> list[object]:
    label, items = read_items(path, 0)
    made = tokenise(tokenizer, path.stem, label, items, 512, NEOX_EOS)
    strings = list({text for item in items for choice in item.choices
                    for text in (item.context, f"{item.context} {choice}",
                                 *([f"{item.unconditional} {choice}"] if item.unconditional else []))})  # fmt: skip

    def make() -> None:
        again = tokenise(tokenizer, path.stem, *read_items(path, 0), 512, NEOX_EOS)
        batches(again.requests)

    ours, bare = best(make), best(lambda: tokenizer.encode_batch(strings))
    groups = [arrays([made.requests[row] for row in group])[0].shape for group in batches(made.requests, BATCH_TOKENS)]
    tokens = sum(len(request.ids) - 1 for request in made.requests)
    contexts = {request.ids[: len(request.ids) - request.scored] for request in made.requests}
    shared = sum(map(len, contexts)) + sum(request.scored for request in made.requests)
    padded = sum(wide * high for high, wide in groups)
    return [len(made.requests), ours, bare, f"{ours / bare:.2f}", f"{1 - tokens / padded:.1%}", tokens,
            f"{shared:,} ({shared / tokens:.0%})"]  # fmt: skip


if __name__ == "__main__":
    print(run())
