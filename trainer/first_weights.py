"""What a training that begins with the weights of a folder (`train.init_from`) must agree with.

Tensors of the right size can still be those of another model: the rotary base, the number of heads or the ids of the
tokenizer leave no trace in a shape. So the folder's `config.json` and tokenizer are compared before any weight is
read. The cost is one look at two tokenizer files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trainer.hf import read_config
from trainer.model import padded_vocab
from trainer.rundir import CheckpointError
from trainer.shape import ModelConfig
from trainer.tensor_files import read_json


def embedding_rows(init_from: str, shape: ModelConfig, vocab_size: int, tokenizer: Path) -> int:
    """Rows of the embedding: the folder's, or without one `vocab_size` rounded up.

    `vocab_size` and `tokenizer` (a tokenizer.json) are those of the shards. CheckpointError where the folder holds
    another model than `shape`, or the shards other ids than it was trained with.
    """
    if not init_from:
        return padded_vocab(vocab_size)
    folder = Path(init_from)
    path = folder / "config.json"
    found = read_config(read_json(path), str(path))
    theirs, ours = found.shape.model_dump(), shape.model_dump()
    other = {key: (theirs[key], ours[key]) for key in theirs if not _same(theirs[key], ours[key])}
    if other:
        told = ", ".join(f"{key} is {there} there and {here} here" for key, (there, here) in other.items())
        raise CheckpointError(f"train.init_from: {folder} is another model than train.model: {told}: set train.model "
                              f"to {as_yaml(found.shape)}")  # fmt: skip
    if found.vocab_size < vocab_size:
        raise CheckpointError(f"train.init_from: {folder} has {found.vocab_size:,} token ids, the shards have "
                              f"{vocab_size:,}: make the shards with the tokenizer of the model")  # fmt: skip
    if (folder / "tokenizer.json").exists() and tokenizer.exists():
        there, here = _ids(folder / "tokenizer.json"), _ids(tokenizer)
        wrong = sorted((number, token) for token, number in here.items() if there.get(token) != number)
        if wrong:
            number, token = wrong[0]
            raise CheckpointError(
                f"train.init_from: {folder}: its tokenizer is not that of the shards, {len(wrong):,} of {len(here):,} "
                f"tokens differ, the first is {token!r}, {there.get(token)} there and {number} here: make the shards "
                f"with {folder / 'tokenizer.json'}"
            )
    return found.vocab_size


def as_yaml(shape: ModelConfig) -> str:
    """The shape as a value for `train.model`, without what is as by default."""
    return json.dumps(shape.model_dump(exclude_defaults=True)).replace('"', "")


def _same(one: Any, other: Any) -> bool:
    """Equal, where numbers may have passed through 32 bits."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _ids(path: Path) -> dict[str, int]:
    try:
        return Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the binding raises a bare Exception
        raise CheckpointError(f"{path}: expected a tokenizer, found {error}") from None
