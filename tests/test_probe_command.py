"""`tamis probe`: a checkpoint and its export score alike, on the items of a run, and compare like two runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from model_folders import logits, model_of, shape, tensors_of
from safetensors.torch import save_file
from toy_training import make_run
from typer.testing import CliRunner

from pipeline.cli import app
from trainer.export import open_model
from trainer.hf import hf_config
from trainer.probe_cli import load_model, probe
from trainer.probe_items import ProbeError

ENV = {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with probe items, a tokenizer and a checkpoint at step 40."""
    folder = make_run(tmp_path_factory.mktemp("probed") / "run")
    step = folder / "checkpoints" / "step-40"
    step.mkdir(parents=True)
    config = shape(tied=True)
    save_file(tensors_of(model_of(config)), step / "model.safetensors", metadata={"format": "pt"})
    (step / "config.json").write_text(json.dumps(hf_config(config, 320, 64, 0)))
    (step / "state.json").write_text(json.dumps({"step": 40}))
    (folder / "checkpoints" / "latest").write_text("step-40\n")
    return folder


@pytest.mark.parametrize("changes", [{"tied": True}, {"tied": False}, {"qk_norm": True}, {"bias": True}], ids=str)
def test_loaded_weights_are_those_on_disk(tmp_path, changes):
    config = shape(**changes)
    model = model_of(config)
    save_file(tensors_of(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(hf_config(config, 320, 64, 0)))
    ids = torch.arange(40)[None] * 7 % 320
    loaded = load_model(open_model(tmp_path), torch.device("cpu"))
    assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_rows_and_item_scores_of_a_checkpoint(run, tmp_path):
    heard = []
    (row,) = probe(run, run / "probes", 8, tmp_path / "out", told=heard.append)
    assert (row["step"], row["task"], row["n"]) == (40, "toy", 8)
    assert sum(heard) > 0
    assert json.loads((tmp_path / "out" / "probes.jsonl").read_text()) == row
    assert (tmp_path / "out" / "probe-items" / "step-40.parquet").exists()


def test_the_command_on_a_checkpoint_and_its_export(run, tmp_path):
    call = CliRunner().invoke
    exported, outs = tmp_path / "exported", [tmp_path / "one", tmp_path / "two"]
    assert call(app, ["export", str(run), str(exported)], env=ENV).exit_code == 0
    for model, out in zip((run, exported), outs, strict=True):
        result = call(app, ["probe", str(model), "--run", str(run), "--out", str(out)], env=ENV)
        assert result.exit_code == 0, result.output
        assert "toy" in result.output
        assert "±" in result.output
    rows = [json.loads((out / "probes.jsonl").read_text()) for out in outs]
    assert all(np.isclose(rows[0][name], rows[1][name]) for name in ("acc", "acc_norm", "bits_per_byte"))
    result = call(app, ["compare", *map(str, outs)], env=ENV)
    assert result.exit_code == 0, result.output
    assert "0 of 5 differences are outside noise" in " ".join(result.output.split())


def test_what_cannot_be_probed(run, tmp_path):
    with pytest.raises(ProbeError, match="expected probe items"):
        probe(run, tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    step = run / "checkpoints" / "step-40"
    for name in ("model.safetensors", "config.json"):
        (bare / name).write_bytes((step / name).read_bytes())
    with pytest.raises(ProbeError, match=r"no tokenizer, looked for .*bare/tokenizer\.json: name its folder"):
        probe(bare, run / "probes")
    assert probe(bare, run / "probes", tokenizer=run / "tokenizer")[0]["step"] == 0
    config = shape(tied=True)
    save_file(tensors_of(model_of(config, 256)), bare / "model.safetensors", metadata={"format": "pt"})
    (bare / "config.json").write_text(json.dumps(hf_config(config, 256, 64, 0)))
    with pytest.raises(ProbeError, match="but the model has 256 rows: it is the tokenizer of another model"):
        probe(bare, run / "probes", tokenizer=run / "tokenizer")
    result = CliRunner().invoke(app, ["probe", str(run), "--tasks", "quiz"], env=ENV)
    assert result.exit_code == 1
    assert "--tasks: expected some of hellaswag" in str(result.exception)
