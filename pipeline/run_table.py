"""The tables at the end of `tamis run`: each stage's documents, the reasons of its drops, and what training gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

FATES = ("in", "kept", "dropped", "quarantined")
REASONS_SHOWN = 4


def print_whole(table: Table, out: Console) -> None:
    """Print a table as wide as it is: in a pipe or a narrow terminal its numbers are never cut."""
    width = out.width
    out.width = max(width, out.measure(table, options=out.options.update(width=1000)).maximum)
    out.print(table)
    out.width = width


def documents(summary: dict[str, Any]) -> Table:
    """One row for each stage, its main reasons below it, and the totals of the ledger."""
    table = Table(title=f"{summary['name']}: documents by stage", title_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.pad_edge, table.collapse_padding = False, False, True
    table.add_column("stage", overflow="fold")
    for heading in ("in", "kept", "dropped", "quarantined", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in summary["stages"]:
        name = escape(stage["name"])
        if stage["kind"] == "artifact":
            table.add_row(f"{name} [dim](makes files)[/dim]", "", "", "", "", _seconds(stage))
        elif stage["kind"] != "sketch" or stage["quarantined"]:
            counts = [f"{stage[fate]:,}" if stage[fate] or fate in ("in", "kept") else "" for fate in FATES]
            table.add_row(name, *counts, _seconds(stage))
            for reason, count in _reasons(stage):
                table.add_row(f"[dim]  {escape(reason)}[/dim]", "", "", f"[dim]{count:,}[/dim]", "", "")
    table.add_section()
    totals = summary["documents"]
    table.add_row("all", *[f"{totals[fate]:,}" for fate in FATES], f"{summary['seconds']:,.1f}")
    return table


def _reasons(stage: dict[str, Any]) -> list[tuple[str, int]]:
    reasons = sorted(stage["reasons"].items(), key=lambda item: (-item[1], item[0]))
    rest = reasons[REASONS_SHOWN:]
    if len(rest) == 1:
        return reasons
    more = [(f"{len(rest)} more reasons", sum(count for _, count in rest))] if rest else []
    return reasons[:REASONS_SHOWN] + more


def _seconds(stage: dict[str, Any]) -> str:
    return "[dim]cached[/dim]" if stage["cached"] else f"{stage['wall_seconds']:,.1f}"


def training(run_dir: Path) -> list[RenderableType]:
    """What the last steps and the last probes gave, to be printed; empty when nothing was trained."""
    shown: list[RenderableType] = []
    rows = [row for row in _rows(run_dir / "train.jsonl") if "loss" in row]
    if rows:
        last = rows[-1]
        line = f"train: step {last['step']:,}, loss {last['loss']:.3f}, {last['tokens']:,} tokens"
        bits = last.get("val_bits_per_byte")
        shown.append(line + (f", validation {_pair(last, 'val_bits_per_byte', 1, 3)} bits per byte" if bits else ""))
    probes = _rows(run_dir / "probes.jsonl")
    if probes:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("probe", "items", "bits per byte", "acc_norm, %"):
            table.add_column(heading, justify="left" if heading == "probe" else "right", no_wrap=True)
        for row in [row for row in probes if row["step"] == probes[-1]["step"]]:
            name, n = escape(row.get("label", row["task"])), f"{row['n']:,}"
            table.add_row(name, n, _pair(row, "bits_per_byte", 1, 3), _pair(row, "acc_norm", 100, 1))
        shown.append(table)
    return shown


def _pair(row: dict[str, Any], name: str, scale: int, digits: int) -> str:
    """A number with its standard error, where it has one."""
    error = row.get(f"{name}_stderr")
    return f"{scale * row[name]:.{digits}f}" + (f" ± {scale * error:.{digits}f}" if error is not None else "")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
