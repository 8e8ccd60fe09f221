"""The command `tamis batch`: from an optimizer step, a rank and a row back to documents and URLs.

The body only. It asks the trainer's lineage, which needs no torch, and joins what it says with the ledger.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.errors import TamisError

out = Console()


def batch(
    run_dir: Annotated[Path, typer.Argument(help="run directory")],
    step: Annotated[int, typer.Argument(min=1, help="optimizer step, from 1")],
    rank: Annotated[int | None, typer.Option(min=0, help="only this data rank", show_default=False)] = None,
    row: Annotated[
        int | None, typer.Option(min=0, help="only this row, of the rank or of the global batch", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """List the documents of a training batch: which of their tokens stood where, with their URLs.

    Ranks are those of the last launch; the rows of a step's global batch are the same for any number of them.
    """
    from pipeline import batches
    from trainer.launch import read_config
    from trainer.lineage import Lineage
    from trainer.rundir import TrainingError
    from trainer.tokens import DataError, TokenIndex

    settings = run_dir / "training.json"
    if not settings.exists():
        raise TamisError(f"{run_dir}: expected training.json of a training, found none; run `tamis train` first")
    try:
        config = read_config(settings)
    except TrainingError as error:
        raise TamisError(str(error)) from None
    if step > config.total_steps:
        raise TamisError(f"{run_dir}: expected a step up to {config.total_steps}, found {step}")
    rows = list(range(config.global_batch))
    if rank is not None:
        if rank >= config.data_ranks:
            raise TamisError(f"{run_dir}: expected a data rank below {config.data_ranks}, found {rank}")
        rows = [number for number in rows if number // config.rank_micro_batch % config.data_ranks == rank]
    if row is not None:
        if row >= len(rows):
            raise TamisError(f"{run_dir}: expected a row below {len(rows)}, found {row}")
        rows = [rows[row]]
    try:
        spans = Lineage.open(TokenIndex.read(run_dir / "tokens"), config).documents(step, rows)
    except DataError as error:
        raise TamisError(str(error)) from None
    found = batches.join(run_dir, spans)
    if as_json:
        for span in found:
            typer.echo(json.dumps(span, ensure_ascii=False))
    else:
        batches.show(found, out)
