"""`tamis why`: one document's fate, every score that it got, and the rule that each score met or failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import edits
from pipeline.errors import TamisError
from pipeline.plan import Node, Plan
from pipeline.report.build import shown

MAX_ROWS = 20


def find(run_dir: Path, document: str) -> list[dict[str, Any]]:
    """Ledger rows of a document id, or of all records with this URL."""
    pattern = run_dir / "ledger" / "*.parquet"
    if not any((run_dir / "ledger").glob("*.parquet")):
        raise TamisError(f"{run_dir}: expected a ledger of a finished run, found none; run `tamis run` first")
    with duckdb.connect() as db:
        found = db.execute(
            "select * from read_parquet(?) where doc_id = ? or url = ? order by file, record_offset limit ?",
            [str(pattern), document, document, MAX_ROWS],
        )
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        if not rows:
            close = db.execute(
                "select url from read_parquet(?) where url is not null order by levenshtein(url, ?), url limit 3",
                [str(pattern), document],
            ).fetchall()
            hint = ", ".join(row[0] for row in close)
            raise TamisError(
                f"{run_dir}: expected a document id or URL of its ledger, found {document!r}; close: {hint}"
            )
    return rows


def explain(run_dir: Path, document: str, console: Console, with_edits: bool = False) -> None:
    """Print the fate of a document, and what was taken out of its text. Raises TamisError with the closest URLs when
    it is unknown."""
    rows = find(run_dir, document)
    plan = Plan.from_json(json.loads((run_dir / "plan.json").read_text()))
    for row in rows:
        _print(row, plan, run_dir, console)
        for stage, cuts in edits.find(run_dir, plan, row) if with_edits else []:
            console.print(f"  {stage} took out or replaced:", highlight=False, markup=False)
            for cut in cuts:
                console.print("    | " + shown(cut, 300), highlight=False, markup=False, soft_wrap=True)


def _print(row: dict[str, Any], plan: Plan, run_dir: Path, console: Console) -> None:
    colour = {"kept": "green", "dropped": "red", "quarantined": "yellow"}[row["verdict"]]
    console.print(f"\n[bold]{escape(row['url'] or row['doc_id'])}[/bold]", soft_wrap=True, highlight=False)
    console.print(f"  document  {row['doc_id']}", highlight=False)
    where = f"  record    {row['source']}: {row['file']} at {row['record_offset']}"
    console.print(where, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"  language  {row['language'] or 'unknown'}, {row['text_bytes'] or 0:,} bytes of text", highlight=False
    )
    fate = f"  fate      [{colour}]{row['verdict']}[/{colour}]"
    if row["verdict"] != "kept":
        fate += f" by {escape(str(row['stage']))}: {escape(str(row['reason']))}"
        if row["score"] is not None:
            fate += f" (score {row['score']:.4g}, threshold {row['threshold']:.4g})"
    console.print(fate, highlight=False)
    if row["canonical_id"]:
        stays = "itself" if row["canonical_id"] == row["doc_id"] else _name(run_dir, row["canonical_id"])
        console.print(
            f"  cluster   {row['cluster_id']}; the copy that stays is {escape(stays)}", highlight=False, soft_wrap=True
        )
    if row["failed_rules"]:
        console.print(f"  failed    {', '.join(row['failed_rules'])}", highlight=False, markup=False, soft_wrap=True)
    table = Table("score", "value", "rule", "result", box=None, pad_edge=False, header_style="dim")
    rules: dict[str | None, list[tuple[str, str, str]]] = {}
    for node in plan.nodes:
        for rule in node.params.get("rules", []) if node.type == "select" else []:
            shown = escape(rule["keep"].removeprefix(f"{rule['column']} "))
            entry = (shown, node.name, _result(row, plan, node, rule["name"]))
            rules.setdefault(rule["column"], []).append(entry)
    for node_name, scores in (row["scores"] or {}).items():
        for name, value in (scores or {}).items() if isinstance(scores, dict) else ():
            column = f"{node_name}.{name}"
            shown = "not scored" if value is None else f"{value:.5g}"
            for keep, select, result in rules.pop(column, []) or [("", "", "")]:
                table.add_row(f"  {column}", shown, f"{keep} ({select})" if select else "", result)
    for rest, found in rules.items():  # words and joined rules have no number of their own
        for keep, select, result in found:
            table.add_row(f"  {rest or ''}", "", f"{keep} ({select})", result)
    console.print(table)


def _result(row: dict[str, Any], plan: Plan, select: Node, rule: str) -> str:
    """What the rule said of this document, bounds of overrides included; empty where it never came so far."""
    if row["verdict"] != "kept":
        stage = plan.by_name.get(row["stage"])
        if stage is None or stage.position < select.position:
            return ""
        if stage.name == select.name and rule in (row["failed_rules"] or ()):
            return "[red]fails[/red]"
    return "[green]holds[/green]"


def _name(run_dir: Path, doc_id: str) -> str:
    rows = find(run_dir, doc_id)
    return str(rows[0]["url"] or doc_id)
