"""A tokenizer that exists already: to make shards for a model that was imported, or one vocabulary for many corpora.

Takes a `tokenizer.json` as it is, byte for byte, with the files beside it that `transformers.AutoTokenizer` reads, and
publishes it where a trained one would lie. No document is read. Special tokens of the tokenizer are never made from
text: a page that spells one gets the ids of its characters.

    - use_tokenizer: {path: models/smollm2, eos_token: "<|endoftext|>"}
    - tokenize: {tokenizer: use_tokenizer}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer

from pipeline.stage import Corpus, Params, StageError, Tools, artifact_stage
from stages.assets import sha256_of

FILE, LIMIT = "tokenizer.json", 200_000_000
BESIDE = ("tokenizer_config.json", "special_tokens_map.json")


class UseTokenizer(Params):
    path: str = Field(description="a tokenizer.json, or a folder with one, such as an imported model")
    eos_token: str = Field("", description="token that ends a document; empty takes the one of tokenizer_config.json")


def _file(path: str) -> Path:
    given = Path(path)
    file = given / FILE if given.is_dir() else given
    if not file.is_file():
        raise StageError(f"use_tokenizer.path: expected a {FILE} or a folder with one, found nothing at {path!r}")
    if file.stat().st_size > LIMIT:
        raise StageError(f"{file}: expected at most {LIMIT:,} bytes, found {file.stat().st_size:,}")
    return file


def _end(file: Path, wanted: str) -> str:
    """The end-of-text token: as stated, else as the configuration beside the tokenizer has it."""
    if wanted:
        return wanted
    for beside in BESIDE:
        path = file.with_name(beside)
        token: Any = json.loads(path.read_text()).get("eos_token") if path.is_file() else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            return token
    raise StageError(f"{file}: expected eos_token in {' or '.join(BESIDE)} beside it, found none: set eos_token")


def _identity(params: UseTokenizer) -> str:
    file = _file(params.path)
    return " ".join(sha256_of(path) for path in (file, *map(file.with_name, BESIDE)) if path.is_file())


@artifact_stage("use_tokenizer", UseTokenizer, reads=(), publish="tokenizer", identity=_identity)
def use_tokenizer(corpus: Corpus, params: UseTokenizer, out: Path, tools: Tools) -> dict[str, Any]:
    """Copy the tokenizer and write `artifact.json`. Raises StageError for a wrong file."""
    file = _file(params.path)
    data = file.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises a bare Exception
        raise StageError(f"{file}: expected a tokenizer, found {error}") from None
    end = _end(file, params.eos_token)
    eos_id = tokenizer.token_to_id(end)
    if eos_id is None:
        raise StageError(f"{file}: expected the end-of-text token {end!r} in its vocabulary, found none: set eos_token")
    (out / FILE).write_bytes(data)
    for beside in BESIDE:
        if file.with_name(beside).is_file():
            (out / beside).write_bytes(file.with_name(beside).read_bytes())
    report = {
        "format": "tamis-tokenizer/1",
        "fingerprint": hashlib.sha256(data).hexdigest(),
        "vocab_size": max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        "eos_token": end,
        "eos_id": eos_id,
    }
    (out / "artifact.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return report
