"""`tamis compare A B`: the probes and the validation of two runs side by side, each difference with its noise.

Probes are compared item by item (see `paired`), and refused where the items are not the same. Validation is compared on
the sequences that both runs scored (see `paired_validation`): filters keep different documents, so these may be some or
none of them. Where none are shared the means are shown, apart and without a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import paired, paired_validation
from pipeline.errors import TamisError
from pipeline.paired import Difference
from pipeline.paired_validation import Pairing, Pieces
from pipeline.run_table import print_whole
from pipeline.shown import shown

LABEL = 26  # characters of a name in a table


@dataclass
class Comparison:
    """Everything that `show` prints, as (what, number of items, sequences or sources, difference). `unpaired` are the
    sources whose validation has no pairs; `sources` is what the paired ones come to, where there are several."""

    steps: tuple[int, int]
    tokens: tuple[int | None, int | None]
    headline: Difference | None = None  # the mean of bits per byte over the tasks
    probes: list[tuple[str, int, Difference]] = field(default_factory=list)
    validation: list[tuple[str, int, Difference]] = field(default_factory=list)
    sources: list[tuple[str, int, Difference]] = field(default_factory=list)
    unpaired: list[tuple[str, int, Difference]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(a: Path, b: Path, step: int | None = None) -> Comparison:
    """Compare the last probe round of each run, or that of a step; unless both have one, the last validation.
    Raises TamisError where they cannot be compared."""
    probed = _steps(a, b, "probes.jsonl", "task", step)
    steps = probed or _steps(a, b, "train.jsonl", "validation", step)
    if steps is None:
        wanted = "a probe round" if step is None else f"a probe round at step {step}"
        lacking = a if _last_step(a, "probes.jsonl", "task", step) is None else b
        raise TamisError(
            f"{lacking}: expected probes.jsonl with {wanted}, found none; give run directories, or folders that "
            "`tamis probe --out` wrote"
        )
    out = Comparison(steps, (_tokens(a, steps[0]), _tokens(b, steps[1])))
    if probed:
        _probes(out, a, b)
    else:
        out.notes.append("not both have probes at these steps: validation alone is compared")
    _validation(out, a, b)
    if None not in out.tokens and out.tokens[0] != out.tokens[1]:
        out.notes.append(f"A has seen {out.tokens[0]:,} training tokens and B {out.tokens[1]:,}")
    return out


def _probes(out: Comparison, a: Path, b: Path) -> None:
    """Add the differences of the probes that both have."""
    before, after = (paired.read(_items(run, at)) for run, at in zip((a, b), out.steps, strict=True))
    common = [task for task in before if task in after]
    if not common:
        raise TamisError(f"{a} has the probes {', '.join(before)}, {b} has {', '.join(after)}: none in common")
    wrong = {task: reason for task in common if (reason := paired.disagreement(before[task], after[task]))}
    if wrong:
        lines = "; ".join(f"{task}: {reason}" for task, reason in wrong.items())
        raise TamisError(
            f"{a} and {b} were asked different items, so nothing can be paired: {lines}. Probe both with the same "
            "`probes` and train.probe_limit, or score their checkpoints again with `tamis probe`"
        )
    out.probes = [
        (before[task].label, len(before[task].items), one)
        for task in common
        for one in paired.differences(before[task], after[task])
    ]
    out.headline = paired.mean([(one, size) for _, size, one in out.probes if one.metric == paired.HEADLINE])
    out.notes += [f"{name} is in one of the two alone" for name in sorted(before.keys() ^ after.keys())]


def _steps(a: Path, b: Path, log: str, key: str, step: int | None) -> tuple[int, int] | None:
    """The last step of both that has a row with `key` in a log, or `step` itself; None unless both have one."""
    found = [_last_step(run, log, key, step) for run in (a, b)]
    return None if None in found else (found[0], found[1])  # type: ignore[return-value]


def _last_step(run: Path, log: str, key: str, step: int | None) -> int | None:
    row = _last(run / log, lambda row: bool(row.get(key)) and step in (None, row.get("step")))
    return None if row is None else int(row["step"])


def _items(run: Path, step: int) -> Path:
    path = paired.path_of(run, step)
    if not path.exists():
        raise TamisError(
            f"{path}: not found: the item scores of that round were not kept; probe again with `tamis probe`"
        )
    return path


def _validation(out: Comparison, a: Path, b: Path) -> None:
    """Add bits per byte of each source that both runs validated at these steps, and what cannot be compared."""
    (one, before), (two, after) = (_validated(run, at) for run, at in zip((a, b), out.steps, strict=True))
    pairs: dict[str, Pairing] = {}
    for source in sorted(one.keys() | two.keys()):
        if source not in one or source not in two:
            out.notes.append(f"validation of {source} is in one of the two alone")
            continue
        if source in before and source in after:
            found = paired_validation.pair(before[source], after[source])
            if found.difference:
                pairs[source] = found
                out.validation.append((source, found.shared, found.difference))
                if found.shared < max(found.sequences):
                    out.notes.append(
                        f"validation of {source} is compared on the {found.shared:,} sequences ({found.documents:,} "
                        f"documents) that both scored, of {found.sequences[0]:,} in A and {found.sequences[1]:,} in B"
                    )
                continue
            why = f"both scored {found.shared:,} sequences of one document, which has no error" if found.shared else (
                "no sequence is in both, so the held-out texts or the tokenizers differ"
            )  # fmt: skip
        else:
            why = "the scores of its sequences were not kept"
        out.notes.append(
            f"validation of {source} is not paired: {why}. A difference of its means says nothing about the models "
            "unless the validation data are alike"
        )
        keys = paired.HEADLINE, f"{paired.HEADLINE}_stderr"
        found_numbers = [side[source].get(key) for key in keys for side in (one, two)]
        numbers = [number for number in found_numbers if isinstance(number, int | float)]
        if len(numbers) == len(found_numbers):
            out.unpaired.append((source, min(one[source]["n"], two[source]["n"]), paired.unpaired(*numbers)))
    if len(pairs) > 1:
        whole = paired_validation.together(pairs, {source: found.bytes for source, found in pairs.items()})
        if whole:
            out.sources.append(("all together", len(pairs), whole))


def _validated(run: Path, step: int) -> tuple[dict[str, dict[str, Any]], dict[str, Pieces]]:
    """The last validation up to a step, by source: its row of train.jsonl, and the kept scores of its sequences."""
    row = _last(run / "train.jsonl", lambda row: row.get("step", 0) <= step and isinstance(row.get("validation"), dict))
    if not row:
        return {}, {}
    path = paired_validation.path_of(run, row.get("step", 0))
    return row["validation"], paired_validation.read(path) if path.exists() else {}


def _tokens(run: Path, step: int) -> int | None:
    row = _last(run / "train.jsonl", lambda row: row.get("step", 0) <= step)
    return int(row["tokens"]) if row and "tokens" in row else None


def _last(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The last row of a JSONL file that is wanted; a half-written last line is passed over."""
    found = None
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and wanted(row):
            found = row
    return found


def show(a: Path, b: Path, found: Comparison, out: Console) -> None:
    """Print the tables and what they come to; 98 columns take the tables."""
    out.print(f"A: {a}, step {found.steps[0]:,}\nB: {b}, step {found.steps[1]:,}\n", highlight=False, markup=False,
              soft_wrap=True)  # fmt: skip
    tables = []
    if found.headline:
        tasks = len({label for label, _, _ in found.probes})
        mean = [("all together", tasks, found.headline)]
        tables.append(_table("Probes, item by item", "task", "item", mean, found.probes))
    if found.validation:
        title = "Validation, on the sequences of both"
        tables.append(_table(title, "source", "sequence", found.sources, found.validation))
    if found.unpaired:
        tables.append(_table("Validation, each on its own text", "source", "sequence", [], found.unpaired, False))
    for table in tables:
        print_whole(table, out)
        out.print()
    compared = [one for _, _, one in (*found.probes, *found.validation)]
    real = sum(not one.noise for one in compared)
    of_probes = (
        " The headline is bits per byte of the right answer: lower is better; of every other number more is. "
        "Probabilities and accuracies are in %."
    )
    out.print(
        f"{real} of {len(compared)} differences are outside noise (95 % intervals; of {len(compared)} comparisons of "
        f"equal models about {0.05 * len(compared):.1f} would seem so).{of_probes if found.headline else ''} The "
        "intervals cover other items and held-out documents, not another seed of the training.",
        highlight=False, markup=False,
    )  # fmt: skip
    for note in found.notes:
        out.print(f"note: {note}", highlight=False, markup=False)


Rows = list[tuple[str, int, Difference]]


def _table(title: str, group: str, unit: str, head: Rows, rows: Rows, judged: bool = True) -> Table:
    """A line for each metric, below one for its task or source; without a verdict where they cannot be `judged`."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name in (group, "A", "B", "B - A", "95 % interval", ""):
        table.add_column(name, justify="left" if name in (group, "") else "right", no_wrap=True)
    last = ""
    for label, count, one in [*head, *rows]:
        if label != last:
            what = f"{count:,} {unit if last or not head else group}{'s' if count != 1 else ''}"
            table.add_row(f"[bold]{escape(shown(label, LABEL))}[/bold]", "", "", f"[dim]{what}[/dim]")
            last = label
        number = _plain if one.metric == paired.HEADLINE else _percent
        verdict = "inside noise" if one.noise else "[green]B better[/green]" if one.better else "[red]A better[/red]"
        verdict = verdict if judged else "not paired"
        table.add_row(f"  {one.metric}", number(one.before), number(one.after),
                      f"{number(one.change, True)} ± {number(one.error)}",
                      f"{number(one.low, True)} to {number(one.high, True)}", verdict)  # fmt: skip
    return table


def _plain(value: float, sign: bool = False) -> str:
    return f"{value:+.4f}" if sign else f"{value:.4f}"


def _percent(value: float, sign: bool = False) -> str:
    """A share in percent: `31.20`; a difference in points: `+1.40`."""
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}"
