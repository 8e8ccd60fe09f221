"""`tamis stages`: what a manifest can name, from the registry itself, so that it cannot be out of date."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import TamisError, did_you_mean
from pipeline.stage import StageType, format_types, stage_types


def show(name: str | None, console: Console) -> None:
    """Print all stages and source formats, or one stage in full."""
    if name is None:
        table = Table("stage", "kind", "what it does", box=None, pad_edge=False)
        for stage in sorted(stage_types().values(), key=lambda s: (s.kind, s.name)):
            table.add_row(escape(stage.name), stage.kind, escape(stage.doc.split("\n\n")[0].replace("\n", " ")))
        console.print(table)
        console.print(f"\nsource formats: {', '.join(sorted(format_types()))}", highlight=False)
        return
    known = stage_types()
    if name not in known:
        raise TamisError(
            f"stages: expected one of {', '.join(sorted(known))}, found {name!r} {did_you_mean(name, known)}"
        )
    _one(known[name], console)


def _one(stage: StageType, console: Console) -> None:
    console.print(f"[bold]{escape(stage.name)}[/bold] ({stage.kind})\n{escape(stage.doc)}\n", highlight=False)
    table = Table("parameter", "default", "meaning", box=None, pad_edge=False)
    for name, field in stage.params.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        table.add_row(escape(name), escape(default), escape(field.description or ""))
    if stage.params.model_fields:
        console.print(table)
    columns = ", ".join(f"{field.name} ({field.type})" for field in stage.adds)
    if columns:
        console.print(f"\ncolumns: {escape(columns)}", highlight=False)
    try:
        rules = stage.rules(stage.params())
    except ValueError:
        rules = []
    for rule in rules:
        console.print(f"rule {rule.name}: {rule.column} {rule.op} {rule.value}", highlight=False, markup=False)
