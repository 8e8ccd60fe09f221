"""A tokenizer from elsewhere makes the same ids here, and a wrong one is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.errors import StageError
from stages.token_encoding import encode, load
from stages.use_tokenizer import UseTokenizer, use_tokenizer

TEXTS = ["a small text, with 123 numbers", "and <|end|> spelled out", ""]


@pytest.fixture
def given(tmp_path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    folder = tmp_path / "given"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    return folder


def use(given: Path, out: Path, **params) -> dict:
    out.mkdir()
    tools = SimpleNamespace(seed=0, node="use_tokenizer")
    return use_tokenizer(None, UseTokenizer(path=str(given), **params), out, tools)


def test_the_tokenizer_is_taken_as_it_is(given, tmp_path):
    info = use(given, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (given / "tokenizer.json").read_bytes()
    assert (info["eos_token"], info["eos_id"]) == ("<|end|>", 0)
    tokenizer, loaded = load(tmp_path / "out")
    assert loaded["vocab_size"] == Tokenizer.from_file(str(given / "tokenizer.json")).get_vocab_size()
    ids, _ = encode(tokenizer, pa.array(TEXTS), pa.uint16(), info["eos_id"])
    assert [tokenizer.decode(row[:-1], skip_special_tokens=False) for row in ids.to_pylist()] == TEXTS
    assert all(row[-1] == 0 and 0 not in row[:-1] for row in ids.to_pylist())  # nothing in a text ends a document


def test_what_is_wrong_is_named(given, tmp_path):
    with pytest.raises(StageError, match="found nothing at"):
        use(tmp_path / "nowhere", tmp_path / "a")
    with pytest.raises(StageError, match="end-of-text token '</s>' in its vocabulary, found none"):
        use(given, tmp_path / "b", eos_token="</s>")
    (given / "tokenizer_config.json").unlink()
    with pytest.raises(StageError, match="set eos_token"):
        use(given, tmp_path / "c")
    (given / "tokenizer.json").write_text("{}")
    with pytest.raises(StageError, match=r"tokenizer\.json: expected a tokenizer"):
        use(given, tmp_path / "d")
