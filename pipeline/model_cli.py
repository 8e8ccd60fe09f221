"""The commands `tamis export` and `tamis import`: models in and out of Hugging Face's form.

The bodies only; the trainer, and with it torch, is loaded when a command runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline.errors import TamisError

if TYPE_CHECKING:
    from trainer.export import Written

out = Console()
err = Console(stderr=True)

ForceOption = Annotated[bool, typer.Option("--force", help="replace the folder OUT if it exists")]


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


def export_model(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="checkpoint folder, or a run directory for its latest checkpoint")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="folder to write")],
    dtype: Annotated[Dtype, typer.Option(help="type of the weights; bfloat16 rounds them to half the size")] = (
        Dtype.float32
    ),
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="folder with tokenizer.json, if not beside the checkpoint or in its run", show_default=False),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a checkpoint as a Hugging Face model: safetensors, config, tokenizer and model card.

    `transformers` loads OUT as a Llama, or as a Qwen3 where the model has QK-norm. OUT appears complete or not at all.
    """
    from trainer.export import export
    from trainer.rundir import CheckpointError

    try:
        written = export(checkpoint, target, dtype.value, tokenizer, force)
    except CheckpointError as error:
        raise TamisError(f"export: {error}") from None
    _tell(written)
    err.print(f"try it:  python -c \"from transformers import pipeline; print(pipeline('text-generation', "
              f"'{target}')('The', max_new_tokens=20))\"", highlight=False, markup=False, soft_wrap=True)  # fmt: skip


def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="folder with config.json and safetensors, or a GGUF file")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="checkpoint folder to write")],
    force: ForceOption = False,
) -> None:
    """Read a Hugging Face model (Llama, Qwen3, Mistral without a window) as a checkpoint.

    Training continues from it with `train.init_from: OUT` in a manifest. Pickled weights and code that comes with a
    model are never loaded; what the trainer's model cannot express is refused by the name of its key.
    """
    from trainer.first_weights import as_yaml
    from trainer.import_hf import import_model as read
    from trainer.rundir import CheckpointError

    try:
        written = read(source, target, force)
    except CheckpointError as error:
        raise TamisError(f"import: {error}") from None
    _tell(written)
    section = f"train:\n  init_from: {target}\n  model: {as_yaml(written.shape)}"
    err.print("to continue training from it, write in a manifest:", highlight=False)
    err.print(section, highlight=False, markup=False, soft_wrap=True)


def _tell(written: Written) -> None:
    size = f"{written.bytes / 1e6:,.1f} MB"
    text = f"{written.architecture} of {written.parameters:,} parameters, {size}; wrote {written.folder}"
    out.print(text, highlight=False, markup=False, soft_wrap=True)
    for note in written.notes:
        err.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
