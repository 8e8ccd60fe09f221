"""The report's section on training: the loss, validation by source beside the untrained model, speed, and spikes.

A row of `train.jsonl` need not have a loss: the one of step 0 validates the model before training. Speeds are medians
over the rows, between the 10th and 90th percentile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report import charts

CHARTS = 12  # sources drawn


def section(run_dir: Path, steps: list[dict[str, Any]], tokens: dict[str, Any] | None, launched: dict[str, Any] | None,
            ) -> dict[str, Any] | None:  # fmt: skip
    """What the template shows; None where nothing was logged. `launched` is `train` of summary.json, where a later
    `tamis train` has not written other rows."""
    if not steps:
        return None
    learned = [row for row in steps if charts.finite(row.get("loss"))]
    first, last = (learned[0], learned[-1]) if learned else (steps[0], steps[-1])
    if not launched or launched.get("loss") != round(last.get("loss", math.nan), 4):
        launched = {}
    found, validated = spikes(run_dir / "spikes"), validation(steps, tokens)
    epochs = last.get("epochs") or launched.get("epochs") or {}
    rows = sources(validated, tokens, epochs)
    return {
        "first": first,
        "last": last,
        "launched": launched,
        "speed": speed(learned),
        "spikes": found,
        "validation": validated,
        "epochs": epochs,
        "sources": rows,
        "svg": charts.training(steps, {spike["step"] for spike in found}),
        "by_source": charts.by_source(steps, [row["name"] for row in rows if row["n"] and not row["whole"]][:CHARTS]),
    }


def validation(steps: list[dict[str, Any]], tokens: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rows of each source at the last validation, with the bits per byte of the first one; None without any."""
    rows = [row for row in steps if isinstance(row.get("validation"), dict) and row["validation"]]
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    found = {
        name: {**numbers, **_before(first["validation"].get(name, {}), numbers.get("bits_per_byte"), "bits_per_byte")}
        for name, numbers in last["validation"].items()
    }
    return {"first": first, "last": last, "sources": found, "uniform": _uniform(tokens)}


def _before(first: dict[str, Any], now: float | None, name: str) -> dict[str, Any]:
    before = first.get(name)
    change = now / before - 1 if before and now is not None else None
    return {"first": before, "first_stderr": first.get(f"{name}_stderr"), "change": change}


def _uniform(tokens: dict[str, Any] | None) -> float | None:
    """Bits per byte of a model that finds every token equally likely."""
    total = ((tokens or {}).get("totals") or {}).get("validation") or {}
    vocab = ((tokens or {}).get("tokenizer") or {}).get("vocab_size")
    if not vocab or not total.get("text_bytes"):
        return None
    return math.log2(vocab) * total["tokens"] / total["text_bytes"]


def sources(validated: dict[str, Any] | None, tokens: dict[str, Any] | None, epochs: dict[str, float],
            ) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each source, the largest first: training tokens, epochs, validation; then all by their sizes."""
    sizes = {name: split.get("train", {}).get("tokens") for name, split in (tokens or {}).get("sources", {}).items()}
    scored = validated["sources"] if validated else {}
    empty = dict.fromkeys(("n", "loss", "loss_stderr", "bits_per_byte", "bits_per_byte_stderr", "first", "first_stderr",
                           "change"))  # fmt: skip
    rows = [
        {**empty, **scored.get(name, {}), "name": name, "tokens": sizes.get(name), "epochs": epochs.get(name),
         "whole": False}
        for name in sorted(sizes.keys() | scored.keys(), key=lambda name: (-(sizes.get(name) or 0), name))
    ]  # fmt: skip
    if len(rows) > 1 and validated:
        last = validated["last"]
        whole = {name: last.get(f"val_{name}") for name in empty}
        whole |= _before(validated["first"], last.get("val_bits_per_byte"), "val_bits_per_byte")
        counted = [row["n"] for row in rows if row["n"]]
        known = [size for size in sizes.values() if size is not None]
        rows.append({**whole, "name": "all, by their sizes", "n": sum(counted), "tokens": sum(known) if known else None,
                     "epochs": None, "whole": True})  # fmt: skip
    return rows


def speed(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Throughput, utilisation, data wait and memory of the logged steps; None where no row has a speed."""
    timed = [row for row in rows if charts.finite(row.get("tokens_per_s")) and row["tokens_per_s"] > 0]
    if not timed:
        return None
    spent = np.diff([0, *(row.get("tokens", 0) for row in timed)]) / [row["tokens_per_s"] for row in timed]
    waits = [row["data_wait"] for row in timed if charts.finite(row.get("data_wait"))]
    memory = [row["memory_bytes"] for row in timed if row.get("memory_bytes")]
    return {
        "tokens_per_s": _middle(row["tokens_per_s"] for row in timed),
        "mfu": _middle(row["mfu"] for row in timed if charts.finite(row.get("mfu"))),
        "data_wait": float(np.average(waits, weights=spent)) if len(waits) == len(timed) else None,
        "memory": max(memory, default=None),
        "seconds": float(spent.sum()),
    }


def _middle(values: Iterator[float]) -> dict[str, float] | None:
    found = list(values)
    return (
        dict(zip(("low", "middle", "high"), np.percentile(found, [10, 50, 90]).tolist(), strict=True))
        if found
        else None
    )


def spikes(folder: Path) -> list[dict[str, Any]]:
    """The reports of `spikes/` by step; a number that is none stays out, a file that is no report is passed over."""
    found = []
    for path in folder.glob("step-*.json"):
        try:
            report = json.loads(path.read_text())
            step, documents = int(report["step"]), {row["doc_id"] for row in report["documents"]}
        except (ValueError, KeyError, TypeError):
            continue
        if path.name == f"step-{step}.json":  # the name becomes a link
            numbers = {name: report.get(name) for name in ("loss", "expected", "deviations")}
            numbers = {name: value if charts.finite(value) else None for name, value in numbers.items()}
            found.append({"step": step, "file": path.name, "kind": report.get("kind"), **numbers,
                          "documents": len(documents)})  # fmt: skip
    return sorted(found, key=lambda spike: spike["step"])
