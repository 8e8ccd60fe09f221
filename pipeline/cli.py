"""The command line: `tamis run | plan | apply | why | report | stages | sample-crawl`.

It stands on top of everything: it loads the stages, the engine and the trainer's configuration, and turns errors
into one clear message and an exit code (1: something failed, 2: the input was wrong).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline import lineage_cli, model_cli, probe_cli, train_cli
from pipeline.errors import ManifestError, Stopped, TamisError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="A drum sieve for pretraining data: one manifest from a raw crawl to a probed language model, with the fate "
    "of every document as a row.",
    epilog="Start with: tamis run manifests/quickstart.yaml",
)
out = Console()
err = Console(stderr=True)

ManifestArg = Annotated[Path, typer.Argument(help="manifest, a YAML file", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="change a value: dotted.path=value, as in sources.0.paths=crawl/*.warc.gz", metavar="KEY=VALUE"
    ),
]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", help="run directory [default: runs/NAME]", show_default=False)
]
WorkersOption = Annotated[int, typer.Option("--workers", "-w", min=0, help="tasks at a time; 0 is one for each core")]


def _load(manifest: Path, overrides: list[str] | None):
    import stages
    from pipeline import manifest as manifests
    from trainer.config import TrainConfig

    stages.load_all()
    return manifests.load(manifest, overrides, TrainConfig)


def _run_dir(run_dir: Path | None, name: str) -> Path:
    return (run_dir or Path("runs") / name).resolve()


@app.command(epilog="Example:  tamis run manifests/fineweb.yaml --set 'sources.0.paths=crawl/*.warc.gz' --workers 8")
def run(
    manifest: ManifestArg,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    workers: WorkersOption = 0,
    inline: Annotated[bool, typer.Option("--inline", help="run in this process, without Ray")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to use instead of a local one")] = None,
) -> None:
    """Run a manifest: from the sources to the report. What is done already is not done again."""
    from pipeline import report, run_table
    from pipeline import run as driver
    from pipeline.executor import Executor, InlineExecutor
    from pipeline.progress import Reporter

    loaded = _load(manifest, set_)
    folder = _run_dir(run_dir, loaded.name)

    def make_executor() -> Executor:
        if inline:
            return InlineExecutor()
        from pipeline.ray_executor import RayExecutor

        return RayExecutor(workers or os.cpu_count() or 1, address)

    result = driver.run(loaded, folder, make_executor, Reporter(err))
    if result.failures:
        for failure in result.failures:
            err.print(f"failed: {failure}", style="red", highlight=False, markup=False)
        raise typer.Exit(1)
    page = folder / "report" / "index.html"
    if result.worked or not page.exists():
        page = report.build(folder)
    else:
        err.print("nothing to do: every step of this manifest is done", style="green")
    out.print(run_table.documents(result.summary))
    for line in run_table.training(folder):
        out.print(line, highlight=False, markup=False)
    for warning in result.summary.get("warnings", []):
        err.print(f"note: {warning}", style="yellow", highlight=False, markup=False)
    out.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command(epilog="Example:  tamis plan M.yaml --set stages.4.select.rules='[langid.score >= 0.8]'")
def plan(manifest: ManifestArg, set_: SetOption = None, run_dir: RunDirOption = None) -> None:
    """Show what would run and what is done already. Runs nothing, but a source that makes its own files makes them."""
    from pipeline import plan_view

    loaded = _load(manifest, set_)
    plan_view.show(loaded, _run_dir(run_dir, loaded.name), out)


@app.command(epilog="Example:  tamis apply gopher_quality/paper,near_dedup pages.jsonl -o scored.parquet")
def apply(
    stage: Annotated[str, typer.Argument(help="stage, or several with commas; TYPE/VARIANT picks a variant")],
    file: Annotated[Path, typer.Argument(help="Parquet or JSONL with a `text` or `html` column")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="parameter of a stage: STAGE.FIELD=value")] = None,
) -> None:
    """Try stages on a file: writes its columns plus every score, verdict and reason."""
    import stages
    from pipeline.apply import apply_to_file

    stages.load_all()
    totals = apply_to_file(stage.split(","), file, output, set_ or [])
    out.print(", ".join(f"{count:,} {name}" for name, count in totals.items()) + f"; wrote {output}", highlight=False)


@app.command(epilog="Example:  tamis why runs/quickstart http://pydoc.localhost/os.html")
def why(
    run_dir: Annotated[Path, typer.Argument(help="run directory")],
    document: Annotated[str, typer.Argument(help="URL or document id")],
    edits: Annotated[bool, typer.Option("--edits", help="show what stages took out of the text")] = False,
    diff: Annotated[
        bool | None,
        typer.Option(
            help="the text beside the copy that stays, in full or not at all; unasked its start, for a dropped copy",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell a document's fate, with every score and threshold, and its copies."""
    import stages
    from pipeline.why import explain

    stages.load_all()
    explain(run_dir, document, out, edits, diff)


@app.command(epilog="Example:  tamis report runs/quickstart")
def report(run_dir: Annotated[Path, typer.Argument(help="run directory")]) -> None:
    """Build RUN/report/index.html again from the run's files."""
    from pipeline import report as reports

    if not (run_dir / "summary.json").exists():
        raise TamisError(f"{run_dir}: expected a run directory with summary.json, found none; run `tamis run` first")
    out.print(f"report: {reports.build(run_dir)}", highlight=False, soft_wrap=True)


@app.command(name="stages", epilog="Example:  tamis stages gopher_quality")
def list_stages(name: Annotated[str | None, typer.Argument(help="one stage, in full")] = None) -> None:
    """List the stages that a manifest can name, or the parameters, columns and rules of one."""
    import stages
    from pipeline import stage_help

    stages.load_all()
    stage_help.show(name, out)


@app.command(name="sample-crawl", epilog="Example:  tamis sample-crawl pydoc.warc.gz")
def sample_crawl(
    output: Annotated[Path, typer.Argument(help="WARC file to write (.warc.gz)")],
    max_pages: Annotated[int, typer.Option(min=1, help="pages to fetch at most")] = 2000,
) -> None:
    """Crawl Python's own documentation over HTTP on loopback into a true WARC."""
    from pipeline.progress import Reporter
    from stages.ingest import pydoc_crawl

    reporter = Reporter(err)
    reporter.start("crawl", max_pages)
    counts = pydoc_crawl.crawl(output, max_pages, lambda fetched, known: reporter.advance(1, f"{known:,} pages known"))
    reporter.finish(f"{counts['pages']:,} pages")
    out.print(", ".join(f"{value:,} {key}" for key, value in counts.items()) + f"; wrote {output}", highlight=False)


app.command(name="export", epilog="Example:  tamis export runs/quickstart exported --dtype bfloat16")(
    model_cli.export_model
)
app.command(name="import", epilog="Example:  tamis import SmolLM2-135M imported")(model_cli.import_model)


app.command(name="train", epilog="Example:  tamis train manifests/quickstart.yaml --ranks 4 --set train.steps=500")(
    train_cli.train
)
app.command(name="batch", epilog="Example:  tamis batch runs/quickstart 120 --row 3")(lineage_cli.batch)
app.command(name="doctor", epilog="Example:  tamis doctor --ranks 4")(train_cli.doctor)


app.command(name="probe", epilog="Example:  tamis probe runs/quickstart --tasks piqa,arc_easy --limit 200")(
    probe_cli.probe
)
app.command(name="compare", epilog="Example:  tamis compare runs/base runs/deduped")(probe_cli.compare)


def main() -> None:
    """Entry point of the `tamis` command."""
    try:
        app(standalone_mode=True)
    except ManifestError as error:
        err.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except Stopped as stopped:
        err.print(str(stopped), style="yellow", highlight=False, markup=False, soft_wrap=True)
        sys.exit(130)
    except TamisError as error:
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        err.print(f"error: {said}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; the next run continues here", style="yellow")
        sys.exit(130)
