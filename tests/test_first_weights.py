"""Training that begins with imported weights: it goes on from them, or says what does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from model_folders import VOCAB, model_of, shape, write_checkpoint, write_tokenizer
from safetensors.torch import load_file
from test_import import theirs
from toy_training import SHAPE, launch, make_run, rows_of, succeed

from trainer.first_weights import as_yaml, embedding_rows
from trainer.import_hf import import_model
from trainer.rundir import CheckpointError
from trainer.shape import ModelConfig

TOY = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory, and beside it an imported model with the tokenizer of its shards."""
    run = make_run(tmp_path_factory.mktemp("first") / "run")
    theirs("Llama", run.parent / "hf", **TOY)
    shutil.copy(run / "tokenizer" / "tokenizer.json", run.parent / "hf" / "tokenizer.json")
    import_model(run.parent / "hf", run.parent / "imported")
    return run


def test_training_goes_on_from_an_import(run):
    folder = run.parent / "imported"
    succeed(run, init_from=str(folder), steps=1, lr=1e-7, warmup=0, weight_decay=0.0)
    began = rows_of(run)[0]["loss"]
    first, last = load_file(folder / "model.safetensors"), load_file(run / "checkpoints/step-1/model.safetensors")
    assert first.keys() == last.keys()
    assert all(torch.allclose(last[name], first[name], atol=2e-7, rtol=0) for name in first)
    succeed(run, init_from=str(folder), steps=8, lr=0.01)
    assert rows_of(run)[0]["loss"] == pytest.approx(began, abs=1e-5)
    assert rows_of(run)[-1]["loss"] < began - 0.2


def test_another_model_is_refused_before_the_first_step(run):
    done = launch(run, init_from=str(run.parent / "imported"), steps=2, model={**SHAPE, "rope_theta": 5e5})
    assert done.returncode
    assert "rope_theta is 10000.0 there and 500000.0 here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def folder(tmp_path):
    path = write_checkpoint(tmp_path / "first", model_of(shape(rms_norm_eps=1e-6)))
    write_tokenizer(path)
    return path


def rows(folder, config, vocab_size=300):
    return embedding_rows(str(folder), config, vocab_size, folder / "tokenizer.json")


def test_rows_of_the_embedding(folder, tmp_path):
    assert rows(folder, shape(rms_norm_eps=1e-6)) == VOCAB
    assert rows(folder, shape(rms_norm_eps=float(torch.tensor(1e-6)))) == VOCAB  # as GGUF keeps it
    assert embedding_rows("", shape(), 300, tmp_path) == 320
    assert embedding_rows("", shape(), 321, tmp_path) == 384


def test_what_does_not_fit_is_named(folder, tmp_path):
    config = shape(rms_norm_eps=1e-6)
    with pytest.raises(
        CheckpointError, match=r"num_heads is 6 there and 3 here, .*set train.model to \{hidden_size: 48"
    ):
        rows(folder, shape(rms_norm_eps=1e-6, num_heads=3, num_kv_heads=3))
    with pytest.raises(CheckpointError, match="has 320 token ids, the shards have 321"):
        rows(folder, config, 321)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match="2 of 278 tokens differ, the first is 'b'"):
        embedding_rows(str(folder), config, 300, tmp_path / "tokenizer.json")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a tokenizer"):
        rows(folder, config)
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        rows(tmp_path / "none", config)


def test_the_shape_as_a_value_of_the_manifest():
    import yaml

    for config in (shape(), shape(rms_norm_eps=1e-6, tied=False, activation="gelu", head_dim=16, rope_theta=1e6)):
        assert ModelConfig.model_validate(yaml.safe_load(as_yaml(config))) == config
