"""The report's section on training: the loss, validation by source beside the untrained model, speed, and spikes.

A row of `train.jsonl` need not have a loss: the one of step 0 validates the model before training. Whether validation
has moved since then is judged on the same sequences (see `paired_validation`), by the means where their scores were not
kept. Speeds are medians over the rows, between the 10th and 90th percentile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import paired, paired_validation
from pipeline.errors import TamisError
from pipeline.paired import Difference
from pipeline.paired_validation import Pairing
from pipeline.report import charts
from pipeline.shown import shown

CHARTS, NAMED = 12, 8  # sources drawn; named in a sentence


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
    found, validated = spikes(run_dir / "spikes"), validation(run_dir, steps, tokens)
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


def validation(run_dir: Path, steps: list[dict[str, Any]], tokens: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rows of each source at the last validation, with the bits per byte of the first one and the difference; `whole`,
    the difference of all by their sizes; what they come to. None without any."""
    rows = [row for row in steps if isinstance(row.get("validation"), dict) and row["validation"]]
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    pairs, unread = _pairs(run_dir, first, last)
    found = {}
    for name, numbers in last["validation"].items():
        before = first["validation"].get(name, {})
        shared = pairs.get(name)
        moved = (shared and shared.difference) or (
            _means(before, numbers, "bits_per_byte") if first is not last else None
        )
        found[name] = {**numbers, **_before(before, numbers, "bits_per_byte"), "moved": moved}
    sizes = {
        name: split.get("validation", {}).get("text_bytes", 0)
        for name, split in ((tokens or {}).get("sources") or {}).items()
    }
    whole = paired_validation.together(pairs, sizes) if pairs.keys() == found.keys() else None
    if not whole and first is not last:
        whole = _means(first, last, "val_bits_per_byte")
    said = _moved({name: row["moved"] for name, row in found.items()}, first, pairs)
    return {"first": first, "last": last, "sources": found, "whole": whole, "said": said, "note": unread,
            "uniform": _uniform(tokens)}  # fmt: skip


def _pairs(run_dir: Path, first: dict[str, Any], last: dict[str, Any]) -> tuple[dict[str, Pairing], str]:
    """Each source at two validations on the same sequences, where the scores of both were kept."""
    paths = [paired_validation.path_of(run_dir, row.get("step", 0)) for row in (first, last)]
    if first is last or not all(path.exists() for path in paths):
        return {}, ""
    try:
        before, after = map(paired_validation.read, paths)
    except TamisError as error:
        return {}, str(error)
    pairs = {name: paired_validation.pair(before[name], after[name]) for name in before if name in after}
    return {name: found for name, found in pairs.items() if found.difference}, ""


def _means(before: dict[str, Any], after: dict[str, Any], name: str) -> Difference | None:
    """The difference of two means; None without both and their errors."""
    found = [row.get(key) for key in (name, f"{name}_stderr") for row in (before, after)]
    numbers = [number for number in found if isinstance(number, int | float)]
    return paired.unpaired(*numbers) if len(numbers) == len(found) else None


def _moved(differences: dict[str, Difference | None], first: dict[str, Any], pairs: dict[str, Pairing]) -> str:
    """In words: in which sources bits per byte have moved beyond noise. Empty where nothing can be judged."""
    verdicts: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for name, one in differences.items():
        if one:
            verdicts[one.better].append(name)
    words = ((True, "fell beyond noise in"), (False, "rose beyond noise in"), (None, "did not move beyond noise in"))
    parts = []
    for verdict, what in words:
        names = verdicts[verdict]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if names:
            parts.append(f"{what} {', '.join(shown(name, 60) for name in names[:NAMED])}{more}")
    since = "the untrained model" if first.get("step") == 0 else f"step {first.get('step')}"
    apart = [name for name, one in differences.items() if one and name not in pairs]
    how = (
        "on the same sequences" if not apart else "by the means" if not pairs else "on the same sequences, or by means"
    )
    return f"Against {since}, {how}: bits per byte of held-out text {', '.join(parts)}." if parts else ""


def _before(first: dict[str, Any], last: dict[str, Any], name: str) -> dict[str, Any]:
    before, now = first.get(name), last.get(name)
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
                           "change", "moved"))  # fmt: skip
    rows = [
        {**empty, **scored.get(name, {}), "name": name, "tokens": sizes.get(name), "epochs": epochs.get(name),
         "whole": False}
        for name in sorted(sizes.keys() | scored.keys(), key=lambda name: (-(sizes.get(name) or 0), name))
    ]  # fmt: skip
    if len(rows) > 1 and validated:
        last = validated["last"]
        whole = {name: last.get(f"val_{name}") for name in empty}
        whole |= {**_before(validated["first"], last, "val_bits_per_byte"), "moved": validated["whole"]}
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
