"""The table at the end of `tamis run`: each stage's documents, the reasons of its drops, and what training gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

REASONS_SHOWN = 4


def documents(summary: dict[str, Any]) -> Table:
    """One row for each stage, and the totals of the ledger."""
    table = Table(title=f"{summary['name']}: documents by stage", title_justify="left")
    for heading in ("stage", "in", "kept", "dropped by reason", "quarantined", "seconds"):
        left = heading in ("stage", "dropped by reason")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for stage in summary["stages"]:
        if stage["kind"] == "artifact":
            table.add_row(escape(stage["name"]), "", "", "[dim]makes a model or files[/dim]", "", _seconds(stage))
        elif stage["kind"] != "sketch" or stage["quarantined"]:
            table.add_row(
                escape(stage["name"]),
                f"{stage['in']:,}",
                f"{stage['kept']:,}",
                escape(_reasons(stage)),
                f"{stage['quarantined']:,}" if stage["quarantined"] else "",
                _seconds(stage),
            )
    totals = summary["documents"]
    counts = [f"{totals[name]:,}" for name in ("in", "kept", "dropped", "quarantined")]
    table.add_section()
    table.add_row("all", *counts, f"{summary['seconds']:,.1f}")
    return table


def _reasons(stage: dict[str, Any]) -> str:
    if not stage["reasons"]:
        return ""
    reasons = list(stage["reasons"].items())
    lines = [f"{count:,} {name}" for name, count in reasons[:REASONS_SHOWN]]
    rest = reasons[REASONS_SHOWN:]
    if rest:
        lines.append(f"{sum(count for _, count in rest):,} by {len(rest)} more reasons")
    return "\n".join(lines)


def _seconds(stage: dict[str, Any]) -> str:
    return "[dim]cached[/dim]" if stage["cached"] else f"{stage['wall_seconds']:,.1f}"


def training(run_dir: Path) -> list[str]:
    """Last loss and last probe results, one line each; empty when nothing was trained."""
    lines = []
    rows = _rows(run_dir / "train.jsonl")
    if rows:
        last = rows[-1]
        lines.append(f"train: step {last['step']}, loss {last['loss']:.3f}, {last['tokens']:,} tokens")
    probes = _rows(run_dir / "probes.jsonl")
    for row in [row for row in probes if row["step"] == probes[-1]["step"]]:
        lines.append(
            f"probe {row['task']}: acc_norm {row['acc_norm']:.3f} +- {row['acc_norm_stderr']:.3f}, "
            f"{row['bits_per_byte']:.3f} bits per byte, {row['n']:,} items"
        )
    return lines


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
