"""The commands `tamis probe` and `tamis compare`: a finished model on the probe items, and two models on the same.

The bodies only; the trainer, and with it torch, is loaded when a model is scored.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import TamisError
from pipeline.run_table import print_whole

out = Console()
err = Console(stderr=True)


def probe(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CKPT", help="checkpoint, exported or Hugging Face folder, or a run for its latest"),
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="take the items of this run's probes/", show_default=False)
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", help="without --run: tasks of the published items, with commas")
    ] = "hellaswag,openbookqa,commonsense_qa",
    limit: Annotated[int, typer.Option("--limit", min=0, help="items of each task, a fixed subset; 0 for all")] = 0,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="folder for the rows and item scores, which `tamis compare` reads",
                     show_default=False),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="folder with tokenizer.json, if not beside the model or in its run", show_default=False),
    ] = None,
) -> None:  # fmt: skip
    """Score a model on probe items: HellaSwag, OpenBookQA, CommonsenseQA, PIQA, ARC, or those of a run."""
    from trainer.probe_cli import probe as score
    from trainer.probe_items import ProbeError
    from trainer.rundir import CheckpointError

    done = 0

    def told(tokens: int) -> None:
        nonlocal done
        done += tokens
        status.update(f"scored {done:,} tokens")

    with tempfile.TemporaryDirectory(prefix="tamis-probe-") as scratch:
        items = run / "probes" if run else _published(tasks, Path(scratch))
        try:
            with err.status("reading the model") as status:
                rows = score(checkpoint, items, limit, target, tokenizer, told)
        except (CheckpointError, ProbeError) as error:
            raise TamisError(f"probe: {error}") from None
    print_whole(_table(rows), out)
    if target:
        err.print(f"compare it:  tamis compare OTHER {target}", highlight=False, markup=False, soft_wrap=True)


def compare(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", help="run directory, or a folder of `tamis probe --out`")],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="another one, probed on the same items")],
    step: Annotated[
        int | None, typer.Option(min=0, help="probe round to compare [default: the last of each]", show_default=False)
    ] = None,
) -> None:
    """Compare the probes of two models item by item: every difference with its interval, and whether it is noise."""
    from pipeline import compare as comparing

    comparing.show(a, b, comparing.compare(a, b, step), out)


def _published(tasks: str, folder: Path) -> Path:
    """The items of the named tasks, written by the stage that writes them in a run."""
    import stages
    from pipeline.stage import stage_types

    stages.load_all()
    stage = stage_types()["probes"]
    try:
        params = stage.params.model_validate({"tasks": [name.strip() for name in tasks.split(",")], "limit": None})
    except ValueError as error:
        known = stage.params.model_json_schema()["properties"]["tasks"]["items"]["enum"]
        raise TamisError(f"--tasks: expected some of {', '.join(known)}, found {tasks!r}") from error
    stage.run(None, params, folder, None)
    return folder


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    heads = ("shares in %", "items", "bits per byte", "p right", "acc", "acc_norm", "acc_uncond", "chance")
    for at, name in enumerate(heads):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in rows:
        shares = [_with_error(row, name, 100, 1) for name in ("norm_correct_prob", "acc", "acc_norm", "acc_uncond")]
        table.add_row(row["label"], f"{row['n']:,}", _with_error(row, "bits_per_byte", 1, 3), *shares,
                      f"{100 * row['chance']:.1f}")  # fmt: skip
    if any(row["cut"] or row["left_out"] for row in rows):
        said = (f"{row['label']}: {row['cut']} contexts cut, {row['left_out']} items left out" for row in rows)
        table.caption = "longer than the model's window: " + "; ".join(said)
    return table


def _with_error(row: dict[str, Any], name: str, scale: int, digits: int) -> str:
    if row.get(name) is None:
        return "–"
    error = row[f"{name}_stderr"]
    return f"{scale * row[name]:.{digits}f}" + ("" if error is None else f" ± {scale * error:.{digits}f}")
