"""Made-up probe rounds: item scores of a model of a stated skill, written as the trainer writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from trainer.probe_items import Item, Task
from trainer.probes import Probes

NO_REQUESTS = np.zeros(0, np.int64)


def items_of(task: str, count: int, choices: int = 4, unconditional: str | None = None) -> list[Item]:
    """Items whose right answer is `count` different words long in turn, so that they differ in how hard they are."""
    rng = np.random.default_rng(len(task) + count)
    answers = [tuple(f"{'word ' * int(rng.integers(1, 6))}{n}{c}" for c in range(choices)) for n in range(count)]
    return [Item(f"{task}-{n}", f"Question {n}?", answers[n], n % choices, unconditional) for n in range(count)]


def write_round(run: Path, step: int, tasks: dict[str, list[Item]], skill: float, seed: int = 0,
                noise: float = 0.5) -> list[dict]:  # fmt: skip
    """A probe round in `run`: the right answer is `skill` nats a choice more likely than the others, give or take
    `noise`, which depends on `seed`; what the items have in common does not. Returns the rows."""
    probes = Probes(run / "absent", run / "absent", 0, 64, 0)
    scores: list[np.ndarray] = []
    rng = np.random.default_rng(seed)
    for name, items in tasks.items():
        hard = np.random.default_rng(7)
        flat = []
        for item in items:
            base = -6 - 4 * hard.random() - 2 * hard.random(len(item.choices))
            base[item.gold] += skill
            flat.append(base + noise * rng.normal(size=len(base)))
        logprobs = np.concatenate(flat)
        number = np.arange(len(logprobs))
        prior = number + len(logprobs) if items[0].unconditional else None
        if prior is not None:
            logprobs = np.concatenate([logprobs, np.full(len(number), -9.0)])
        probes.tasks[name] = Task(name, f"{name} (toy)", tuple(items), (), number, prior, 0, 0)
        scores.append(logprobs)
    order = iter(scores)
    rows = probes.evaluate(lambda *_: np.zeros(0), lambda _: next(order), 0, 1)
    probes.save_items(run, step)
    rows = [{"step": step, **row} for row in rows]
    with (run / "probes.jsonl").open("a") as out:
        out.write("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def write_steps(run: Path, rows: list[dict]) -> None:
    (run / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
