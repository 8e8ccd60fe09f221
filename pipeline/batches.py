"""What a training batch was made of: its documents, joined with their rows of the ledger.

The trainer says which tokens of which document stood where; the ledger knows the URL, the language and the record in
the crawl of each. Cost: one pass of DuckDB over three columns of the ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.shown import shown

LEDGER = ("url", "language", "file", "record_offset")


def join(run_dir: Path, spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`spans` (each with `doc_id` and `source`) with the columns LEDGER of its document; null without a ledger."""
    known: dict[tuple[str, str], tuple] = {}
    if spans and any((run_dir / "ledger").glob("*.parquet")):
        wanted = pa.table({"doc_id": pa.array(sorted({span["doc_id"] for span in spans}), pa.string())})
        with duckdb.connect() as db:
            db.register("wanted", wanted)
            rows = db.execute(
                f"select doc_id, source, {', '.join(LEDGER)} from read_parquet(?) semi join wanted using (doc_id) "
                "where verdict = 'kept'",
                [str(run_dir / "ledger" / "*.parquet")],
            ).fetchall()
        known = {(row[0], row[1]): row[2:] for row in rows}
    nothing = (None,) * len(LEDGER)
    return [
        span | dict(zip(LEDGER, known.get((span["doc_id"], span["source"]), nothing), strict=True)) for span in spans
    ]


def show(spans: list[dict[str, Any]], console: Console) -> None:
    """A table with one line for each run of tokens of a document; the row's number stands at its first."""
    table = Table("row", "rank", "slots", "tokens of the document", "source", box=None, pad_edge=False,
                  header_style="dim")  # fmt: skip
    table.add_column("document", overflow="fold")  # never cut: it is what one asks for
    last = None
    for span in spans:
        first = (str(span["row"]), str(span["rank"])) if span["row"] != last else ("", "")
        slots = f"{span['slot']}-{span['slot'] + span['tokens'] - 1}"
        tokens = f"{span['first']:,}-{span['first'] + span['tokens'] - 1:,}"
        name = shown(span["url"], 160) if span["url"] else span["doc_id"]
        table.add_row(*first, slots, tokens, escape(span["source"]), escape(name))
        last = span["row"]
    console.print(table)
