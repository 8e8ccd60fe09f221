"""The start-up table of a training: what will be trained, on what, in which memory, for how long.

The trainer knows what the numbers mean and sends finished rows; this shows them.
"""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


def start_table(rows: list[list[str]]) -> Table:
    """`rows` of section, name and value, both last ones text; a section begins where its name changes."""
    table = Table(title="training", title_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.show_edge, table.pad_edge = False, False
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    section = ""
    for where, name, value in rows:
        if where != section:
            table.add_section()
            table.add_row(f"[bold]{escape(where)}[/bold]", "")
            section = where
        table.add_row(f"  {escape(name)}", escape(value))
    return table
