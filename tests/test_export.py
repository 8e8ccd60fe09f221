"""Export: `transformers` gives the same logits and the same token ids; nothing half-written is ever seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hostile import hostile_texts
from model_folders import EOS, LENGTH, VOCAB, logits, model_of, shape, tensors_of, write_checkpoint, write_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from pipeline.cli import app
from trainer import tensor_files
from trainer.export import export, open_model
from trainer.hf import hf_config, read_config, tensor_shapes
from trainer.rundir import CheckpointError

SHAPES = {
    "untied": shape(tied=False),
    "tied": shape(),
    "gqa": shape(num_kv_heads=2),
    "one_kv_head_theta": shape(num_kv_heads=1, rope_theta=500000.0, rms_norm_eps=1e-3),
    "qk_norm": shape(num_kv_heads=3, qk_norm=True, tied=False),
    "qk_norm_wide_heads": shape(num_heads=5, num_kv_heads=5, head_dim=16, qk_norm=True),
    "bias": shape(bias=True, num_kv_heads=2),
    "gelu": shape(activation="gelu"),
    "wide_heads": shape(head_dim=16, tied=False),
}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in a run directory, as the trainer leaves it."""
    run = tmp_path / "run"
    write_tokenizer(run / "tokenizer")
    path = write_checkpoint(run / "checkpoints" / "step-6", model_of(SHAPES["gqa"]))
    (run / "checkpoints" / "latest").write_text("step-6\n")
    return path


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, LENGTH - 1), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_gives_the_same_logits(name, tmp_path):
    from transformers import AutoModelForCausalLM

    model = model_of(SHAPES[name])
    folder = write_checkpoint(tmp_path / "step-6", model)
    write_tokenizer(folder)
    export(folder, tmp_path / "out")
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    torch.testing.assert_close(logits(model, ids()), logits(theirs, ids()), atol=1e-4, rtol=0)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if SHAPES[name].qk_norm else "LlamaForCausalLM")
    assert theirs.generation_config.eos_token_id == EOS


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_sizes_are_the_models(name):
    config = SHAPES[name]
    wanted = {key: tuple(tensor.shape) for key, tensor in tensors_of(model_of(config)).items()}
    assert tensor_shapes(config, VOCAB) == wanted
    written = hf_config(config, VOCAB, LENGTH, EOS)
    described = read_config(json.loads(json.dumps(written)), "config.json")
    assert (described.shape, described.vocab_size, described.seq_len) == (config, VOCAB, LENGTH)
    for rope in ("rope_theta", "rope_parameters"):  # what transformers 5 and 4 leave out
        assert read_config({k: v for k, v in written.items() if k != rope}, "").shape == config


def test_bfloat16_is_the_rounded_weights(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out", "bfloat16")
    rounded, exact = load_file(tmp_path / "out" / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert rounded.keys() == exact.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_shards(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    model = open_model(checkpoint)
    (tmp_path / "cut").mkdir()
    total = tensor_files.copy(model.entries, tmp_path / "cut", torch.float32, shard_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "cut").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert total == sum(tensor.nbytes for tensor in load_file(checkpoint / "model.safetensors").values())
    (tmp_path / "cut" / "config.json").write_text((checkpoint / "config.json").read_text())
    write_tokenizer(tmp_path / "cut")
    export(tmp_path / "cut", tmp_path / "whole")
    whole, exact = load_file(tmp_path / "whole" / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(whole[name], exact[name]) for name in exact)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert torch.equal(theirs.model.norm.weight, exact["model.norm.weight"])


def test_the_tokenizer_comes_along(checkpoint, tmp_path):
    from transformers import AutoTokenizer

    export(checkpoint, tmp_path / "out")
    ours = Tokenizer.from_file(str(checkpoint.parents[1] / "tokenizer" / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in [text for text in hostile_texts().to_pylist() if text is not None and len(text) < 100_000]:
        assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text, add_special_tokens=False).ids
    assert theirs.eos_token_id == EOS
    assert theirs.model_max_length == LENGTH


@pytest.mark.parametrize("path", [".", "checkpoints", "checkpoints/step-6"])
def test_a_checkpoint_is_found_from_its_run(checkpoint, tmp_path, path):
    written = export(checkpoint.parents[1] / path, tmp_path / "out")
    assert written.parameters == SHAPES["gqa"].parameters(VOCAB)
    assert {file.name for file in written.folder.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def test_the_card_says_what_the_run_says(checkpoint, tmp_path):
    run = checkpoint.parents[1]
    manifest = {"name": "my-corpus", "sources": [{"name": "web", "format": "warc", "licence": "a|b"}, {"name": "pg"}]}
    (run / "manifest.resolved.json").write_text(json.dumps(manifest))
    rows = [{"step": 5, "val_bits_per_byte": 9.0}, {"step": 6, "val_bits_per_byte": 1.23456}]
    (run / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 7, "lo')
    (run / "tokens").mkdir()
    index = {"totals": {"train": {"tokens": 123456}}, "sources": {"web": {"train": {"tokens": 100000}}}}
    (run / "tokens" / "index.json").write_text(json.dumps(index))
    card = (export(run, tmp_path / "out").folder / "README.md").read_text()
    for said in ("`my-corpus`", "1,536", "1.2346 bits per byte", "| web | warc | a\\|b | 100,000 |", "not stated",
                 "123,456 training tokens", f"{SHAPES['gqa'].parameters(VOCAB):,}"):  # fmt: skip
        assert said in card, said
    alone = tmp_path / "alone"
    write_checkpoint(alone, model_of(SHAPES["tied"]))
    bare = (export(alone, tmp_path / "two", tokenizer=run / "tokenizer").folder / "README.md").read_text()
    assert "Validation" not in bare
    assert "Data" not in bare


def test_an_existing_folder_is_replaced_only_with_force(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(CheckpointError, match=r"exists already.*--force"):
        export(checkpoint, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    export(checkpoint, out, force=True)
    assert not (out / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_failed_export_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    monkeypatch.setattr(tensor_files, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        export(checkpoint, tmp_path / "out", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert (tmp_path / "out" / "mine").exists()


def damage(checkpoint: Path, change) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), r"expected the tensor model.norm.weight \[48\]"),
        (lambda t: t.update(extra=torch.ones(1)), "1 tensors that config.json does not imply, the first is extra"),
        (
            lambda t: t.update({"model.embed_tokens.weight": torch.ones(64, 48)}),
            r"implies \[320, 48\], found \[64, 48\]",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(48).int()}), "expected one of F32, BF16, F16, found I32"),
        (lambda t: t["model.norm.weight"].mul_(torch.nan), "model.norm.weight holds values that are not finite"),
    ],
)
def test_tensors_of_another_model(checkpoint, tmp_path, change, said):
    damage(checkpoint, change)
    with pytest.raises(CheckpointError, match=said):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_places(checkpoint, tmp_path):
    run = checkpoint.parents[1]
    with pytest.raises(CheckpointError, match="no such folder"):
        export(tmp_path / "none", tmp_path / "out")
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        export(run / "tokenizer", tmp_path / "out")
    words = Tokenizer.from_file(str(run / "tokenizer" / "tokenizer.json"))
    (run / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer, looked for .*step-6.*--tokenizer"):
        export(run, tmp_path / "out")
    words.add_tokens([f"<{number}>" for number in range(VOCAB)])
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=f"has the id {words.get_vocab_size() - 1}, but the model has 320 rows"):
        export(run, tmp_path / "out", tokenizer=tmp_path)
    (checkpoint / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        export(run, tmp_path / "out", tokenizer=tmp_path)


def test_a_run_whose_shards_were_made_anew(checkpoint, tmp_path):
    run = checkpoint.parents[1]
    (run / "tokens").mkdir()
    (run / "tokens" / "index.json").write_text("{}")
    state = json.loads((checkpoint / "state.json").read_text()) | {"tokens_digest": "0" * 64}
    (checkpoint / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"made anew after this checkpoint.*--tokenizer"):
        export(run, tmp_path / "out")
    export(run, tmp_path / "out", tokenizer=run / "tokenizer")


def test_a_shape_that_no_public_class_loads(tmp_path):
    config = shape(num_heads=5, num_kv_heads=5, head_dim=16)
    with pytest.raises(CheckpointError, match=r"num_heads=5 does not divide hidden_size=48.*qk_norm"):
        export(write_checkpoint(tmp_path / "c", model_of(config)), tmp_path / "out")


def test_the_command(checkpoint, tmp_path):
    runner, out = CliRunner(), tmp_path / "out"
    done = runner.invoke(app, ["export", str(checkpoint.parents[1]), str(out), "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    assert "LlamaForCausalLM of" in done.output
    assert load_file(out / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    again = runner.invoke(app, ["export", str(checkpoint), str(out)])
    assert "exists already" in str(again.exception)
    assert "tamis export runs/quickstart" in runner.invoke(app, ["export", "--help"]).output
