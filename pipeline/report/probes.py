"""The report's section on probes: what each task shows, and what it can and cannot tell.

Every verdict is computed. Bits per byte say something where their change since the first round, item by item, lies
outside its 95 % interval. Accuracy says something where it lies more than two standard errors from chance and has moved
since the first round: an untrained model likes short or long answers, and may differ from chance by that alone. Beside
it stands the smallest difference between two models that the task could show at all.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pipeline import paired
from pipeline.errors import TamisError
from pipeline.report import charts

POINT = 0.01


def section(run_dir: Path, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One entry for each task with its numbers, verdicts and charts, and what they come to together."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(str(row.get("task")), []).append(row)
    if not tasks:
        return None
    for history in tasks.values():
        history.sort(key=lambda row: row.get("step", 0))
    steps = [row.get("step", 0) for row in rows]
    changes, unread = _changes(run_dir, min(steps), max(steps))
    found = [_task(run_dir, task, history, changes) for task, history in sorted(tasks.items())]
    return {"tasks": found, "said": _together(found), "note": unread}


def _changes(run_dir: Path, first: int, last: int) -> tuple[dict[str, dict[str, paired.Difference]], str]:
    """By task and metric: the change from the first round to the last on the same items, where both were kept."""
    paths = [paired.path_of(run_dir, step) for step in (first, last)]
    if first == last or not all(path.exists() for path in paths):
        return {}, ""
    try:
        before, after = map(paired.read, paths)
    except TamisError as error:
        return {}, str(error)
    same = [task for task in before if task in after and not paired.disagreement(before[task], after[task])]
    return {task: {one.metric: one for one in paired.differences(before[task], after[task])} for task in same}, ""


def _task(run_dir: Path, task: str, history: list[dict[str, Any]], changes: dict[str, dict[str, paired.Difference]],
          ) -> dict[str, Any]:  # fmt: skip
    first, last = history[0], history[-1]
    label = str(last.get("label", task))
    chance = last.get("chance") or _chance(run_dir / "probes" / f"{task}.jsonl")
    change = changes.get(task, {}).get(paired.HEADLINE) or _change(first, last)
    accuracy = _accuracy(first, last, chance, changes.get(task, {}).get("acc_norm"))
    return {
        "task": task,
        "label": label,
        "first": first,
        "last": last,
        "chance": chance,
        "change": change,
        "paired": task in changes,
        "accuracy": accuracy,
        "bits": charts.probe(label, history, "bits_per_byte", "bits per byte of the answer", None),
        "acc": charts.probe(label, history, "acc_norm", "accuracy, per character", chance),
    }


def _change(first: dict[str, Any], last: dict[str, Any]) -> paired.Difference | None:
    """The change of the means alone, for rounds whose items were not kept."""
    name = paired.HEADLINE
    keys = [(row, key) for key in (name, f"{name}_stderr") for row in (first, last)]
    numbers = [row[key] for row, key in keys if isinstance(row.get(key), int | float)]
    return paired.unpaired(*numbers) if first is not last and len(numbers) == len(keys) else None


def _accuracy(
    first: dict[str, Any], last: dict[str, Any], chance: float | None, change: paired.Difference | None
) -> dict[str, Any] | None:
    """What the accuracy per character is worth: how far from chance (`against`), whether that is `beyond` two standard
    errors (`noise`), whether it is a `signal`, and what could show at all.

    `visible`: two standard errors of the difference of two models that are scored apart. `needed`: items that would
    make that difference one point.
    """
    value, error, n = last.get("acc_norm"), last.get("acc_norm_stderr"), last.get("n")
    if value is None or not error or not n or chance is None:
        return None
    beyond = abs(value - chance) > 2 * error
    start = first.get("acc_norm") if first is not last else None
    moved = not change.noise if change else start is None or abs(value - start) > 2 * math.sqrt(2) * error
    return {
        "against": value - chance,
        "noise": 2 * error,
        "beyond": beyond,
        "above": value > chance,
        "signal": beyond and moved,
        "visible": 2 * math.sqrt(2) * error,
        "needed": _about(8 * n * error**2 / POINT**2),
    }


def _about(count: float) -> int:
    """Two significant digits, rounded up: a number of items is an estimate."""
    unit = 10 ** max(0, len(str(math.ceil(count))) - 2)
    return math.ceil(count / unit) * unit


def _together(tasks: list[dict[str, Any]]) -> list[str]:
    """What all tasks come to: which carry a signal in this run, by which number, and what two models would need."""
    changed = [task for task in tasks if task["change"]]
    fell, rose = ([task["label"] for task in changed if task["change"].better is side] for side in (True, False))
    still = [task["label"] for task in changed if task["change"].noise]
    judged = [task for task in tasks if task["accuracy"]]
    told = [task["label"] for task in judged if task["accuracy"]["signal"]]
    dumb = [task["label"] for task in judged if not task["accuracy"]["signal"]]
    mute = [label for label in dumb if label in still]
    said = []
    if changed:
        parts = [f"{what} {', '.join(labels)}" for what, labels in (
            ("fell beyond noise in", fell), ("rose beyond noise in", rose), ("did not move beyond it in", still)
        ) if labels]  # fmt: skip
        said.append(f"Bits per byte of the right answer {', '.join(parts)}.")
    if told:
        said.append(f"Accuracy carries a signal in {', '.join(told)}: it is not chance, and has moved with training.")
    if dumb:
        said.append(f"Accuracy carries no signal here in {', '.join(dumb)}: do not rank data by it.")
    if mute:
        said.append(f"By either number this model's training does not show in {', '.join(mute)}.")
    if judged:
        points = sorted(100 * task["accuracy"]["visible"] for task in judged)
        span = f"{points[0]:.1f}" + (f" to {points[-1]:.1f}" if f"{points[0]:.1f}" != f"{points[-1]:.1f}" else "")
        said.append(
            f"Accuracies of two models must lie {span} points apart on these items to be told apart by their means."
        )
    return said


def _chance(path: Path) -> float | None:
    """Mean of 1 / choices over the items of a probe; None where they are not at hand."""
    counts = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            counts.append(len(json.loads(line)["choices"]))
        except (ValueError, KeyError, TypeError):
            continue
    counts = [count for count in counts if count]
    return sum(1 / count for count in counts) / len(counts) if counts else None
