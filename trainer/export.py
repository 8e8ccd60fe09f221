"""From a checkpoint to a folder that `transformers` loads: weights, configuration, tokenizer and model card.

Nothing is permuted or renamed: the tensors are copied one shard at a time, as fp32 or rounded to bf16. What is
published is complete: the folder is written under another name and renamed. The cost is one pass over the weights
and one shard, at most 4 GB, in memory.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from trainer import model_card, tensor_files
from trainer.hf import SPECIAL_IDS, Description, read_config, tensor_shapes, write_config
from trainer.rundir import CHECKPOINTS, STATE, CheckpointError, latest
from trainer.shape import ModelConfig
from trainer.tensor_files import Entry
from trainer.tokens import DataError, TokenIndex

TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A model on disk: a checkpoint, an import, or a Hugging Face folder."""

    folder: Path
    description: Description
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Written:
    """What an export or an import left."""

    folder: Path
    architecture: str
    shape: ModelConfig
    parameters: int
    bytes: int
    notes: tuple[str, ...] = ()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the latest of a run directory or of its checkpoints folder."""
    for folder in (path, path / CHECKPOINTS):
        if found := latest(folder):
            return found[0]
    if (path / "config.json").exists():
        return path
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder")
    raise CheckpointError(
        f"{path}: expected a checkpoint (a folder with config.json and {tensor_files.WEIGHTS}), a run directory or its "
        "checkpoints folder, found none of them"
    )


def open_model(folder: Path) -> Model:
    """Configuration and tensors of a folder, found to fit each other before any tensor is read."""
    where = folder / "config.json"
    description = read_config(tensor_files.read_json(where), str(where))
    entries = tensor_files.scan(folder)
    for name in [name for name in entries if name.endswith("rotary_emb.inv_freq")]:
        del entries[name]  # a table that old files keep; it follows from rope_theta
    shape, vocab = description.shape, description.vocab_size
    if shape.num_layers > len(entries):
        raise CheckpointError(f"{where}: num_hidden_layers is {shape.num_layers:,}, found only {len(entries)} tensors")
    if shape.tied and "lm_head.weight" in entries:
        head, embedding = (
            tensor_files.read(entries[name], name) for name in ("lm_head.weight", "model.embed_tokens.weight")
        )
        if not torch.equal(head, embedding):
            raise CheckpointError(f"{where}: tie_word_embeddings is true, but lm_head.weight is not the embedding")
        del entries["lm_head.weight"]
    wanted = tensor_shapes(shape, vocab)
    tensor_files.check(entries, wanted, str(folder))
    return Model(folder, description, {name: entries[name] for name in wanted})


def run_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint lies in, `RUN/checkpoints/step-N`; None elsewhere."""
    run = checkpoint.resolve().parent.parent
    return run if checkpoint.resolve().parent.name.startswith(CHECKPOINTS) else None


def _tokenizer_folder(checkpoint: Path, given: Path | None, state: dict[str, Any]) -> Path:
    """Where the tokenizer lies; CheckpointError where there is none, or the run's may be another by now."""
    run = run_of(checkpoint)
    places = [given] if given else [checkpoint, *([run / "tokenizer"] if run else [])]
    for folder in places:
        if (folder / TOKENIZER).exists():
            if not given and run and folder == run / "tokenizer" and _made_anew(run, state):
                raise CheckpointError(
                    f"{checkpoint}: the shards of {run} were made anew after this checkpoint, maybe with another "
                    "tokenizer: name the folder of the right one with --tokenizer"
                )
            return folder
    looked = ", ".join(str(folder / TOKENIZER) for folder in places)
    raise CheckpointError(f"{checkpoint}: no tokenizer, looked for {looked}: name its folder with --tokenizer")


def _made_anew(run: Path, state: dict[str, Any]) -> bool:
    if not state.get("tokens_digest") or not (run / "tokens" / "index.json").exists():
        return False
    try:
        return TokenIndex.read(run / "tokens").digest != state["tokens_digest"]
    except DataError:
        return True


def copy_tokenizer(source: Path, target: Path, model: Description) -> None:
    """The tokenizer's files, and a `tokenizer_config.json` where there is none. Its ids must fit the embedding."""
    try:
        tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    except Exception as error:  # the binding raises a bare Exception
        raise CheckpointError(f"{source / TOKENIZER}: expected a tokenizer, found {error}") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= model.vocab_size:
        raise CheckpointError(
            f"{source / TOKENIZER}: has the id {largest:,}, but the model has {model.vocab_size:,} rows: it is the "
            "tokenizer of another model"
        )
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if not (source / "tokenizer_config.json").exists():
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.seq_len}
        for key in ("bos_token", "eos_token", "pad_token"):
            number = model.special.get(f"{key}_id")
            token = tokenizer.id_to_token(number) if isinstance(number, int) else None
            config |= {key: token} if token else {}
        write_json(target / "tokenizer_config.json", config)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export(source: Path, out: Path, dtype: str = "float32", tokenizer: Path | None = None, force: bool = False,
           ) -> Written:  # fmt: skip
    """Write the model of `source` to the new folder `out` as Hugging Face safetensors. CheckpointError if it cannot.

    `source`: a checkpoint, a run directory or its checkpoints folder. `tokenizer`: its folder, unless it lies with
    the checkpoint or in the run directory.
    """
    model = open_model(find_checkpoint(source))
    description, shape = model.description, model.description.shape
    if not shape.qk_norm and shape.hidden_size % shape.num_heads:
        raise CheckpointError(
            f"{model.folder}: transformers loads no Llama whose num_heads={shape.num_heads} does not divide "
            f"hidden_size={shape.hidden_size}: train with qk_norm (a Qwen3), or with other dimensions"
        )
    path = model.folder / STATE
    state = tensor_files.read_json(path) if path.exists() else {}
    words = _tokenizer_folder(model.folder, tokenizer, state)
    config = write_config(description, dtype)
    with tensor_files.published(out, force) as folder:
        copy_tokenizer(words, folder, description)
        size = tensor_files.copy(model.entries, folder, DTYPES[dtype])
        write_json(folder / "config.json", config)
        special = {key: description.special[key] for key in SPECIAL_IDS if key in description.special}
        write_json(folder / "generation_config.json", special)
        facts = model_card.Facts(
            name=out.name,
            description=description,
            dtype=dtype,
            state=state,
            run=run_of(model.folder),
            checkpoint=model.folder,
        )
        (folder / "README.md").write_text(model_card.render(facts), encoding="utf-8")
    return Written(out, config["architectures"][0], shape, shape.parameters(description.vocab_size), size)
