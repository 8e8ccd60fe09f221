"""Import: models that `transformers` saved compute the same here; everything else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_folders import LENGTH, VOCAB, logits, model_of, ours, shape, write_checkpoint, write_tokenizer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pipeline.cli import app
from trainer.export import export
from trainer.hf import hf_config, read_config
from trainer.import_hf import import_model
from trainer.rundir import CheckpointError

SIZES = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "max_position_embeddings": LENGTH, "bos_token_id": 1, "eos_token_id": [0, 2],
}  # fmt: skip


def theirs(kind: str, folder: Path, dtype: torch.dtype = torch.float32, shards: str = "5GB", **changes):
    """A model of `transformers` with random weights, saved."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape).to(dtype) * 0.1)
    model.save_pretrained(folder, max_shard_size=shards)
    write_tokenizer(folder)
    return model


KINDS = [
    ("Llama", {"tie_word_embeddings": False, "rope_theta": 500000.0, "rms_norm_eps": 1e-3}),
    ("Llama", {"tie_word_embeddings": True, "head_dim": 16}),
    ("Llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    ("Qwen3", {"head_dim": 8, "rope_theta": 1e6}),
    ("Mistral", {"sliding_window": None}),
]


@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_the_logits_are_the_same(kind, changes, tmp_path):
    model = theirs(kind, tmp_path / "hf", **changes)
    written = import_model(tmp_path / "hf", tmp_path / "out")
    assert not written.notes
    ids = torch.randint(VOCAB, (2, LENGTH - 1), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(ours(tmp_path / "out"), ids), logits(model, ids), atol=1e-5, rtol=0)
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    assert (state["step"], state["imported"]) == (0, {"from": "hf", "format": "safetensors"})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [0, 2])


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_import_then_export_gives_the_same_bits(shards, dtype, tmp_path):
    model = theirs("Llama", tmp_path / "hf", dtype, shards, tie_word_embeddings=True)
    assert (tmp_path / "hf" / "model.safetensors").exists() == (shards == "5GB")
    import_model(tmp_path / "hf", tmp_path / "in")
    export(tmp_path / "in", tmp_path / "out", str(dtype).removeprefix("torch."))
    found, wanted = load_file(tmp_path / "out" / "model.safetensors"), model.state_dict()
    assert found.keys() == wanted.keys() - {"lm_head.weight"}
    assert all(tensor.dtype == dtype and torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    assert "The weights are those of `hf`, not trained further." in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "hf" / "tokenizer.json").read_bytes() == (tmp_path / "out" / "tokenizer.json").read_bytes()
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [0, 2]}


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder to damage."""
    path = write_checkpoint(tmp_path / "hf", model_of(shape(tied=False)))
    (path / "state.json").unlink()
    return path


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "ABSENT"}))


REFUSED = [
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling: expected rope_type"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters: .*'yarn'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: .*'linear'"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters: .*for all layers"),
    ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor: expected 1.0"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1.0, found 0.5"),
    ({"architectures": ["MistralForCausalLM"]}, "sliding_window: expected null.*found 4096"),
    ({"sliding_window": 128}, "sliding_window: expected null.*found 128"),
    ({"architectures": ["MixtralForCausalLM"]}, "architectures: expected one of LlamaForCausalLM, .*Mixtral"),
    ({"architectures": "ABSENT", "model_type": "gpt2"}, "architectures: .*gpt2"),
    ({"architectures": None, "model_type": None}, "architectures: "),
    ({"architectures": "LlamaForCausalLM"}, "architectures: "),
    ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map: .*never run"),
    ({"attention_bias": True}, "attention_bias: expected the same as mlp_bias, false, found True"),
    ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_act: expected silu or gelu, found 'gelu_pytorch_tanh'"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: expected full_attention"),
    ({"num_local_experts": 8}, "num_local_experts: expected 0 or absent, found 8"),
    ({"quantization_config": {"bits": 4}}, "quantization_config: expected none"),
    ({"hidden_size": "48"}, "hidden_size: expected a whole number from 1 to .*found '48'"),
    ({"hidden_size": 0}, "hidden_size: expected a whole number"),
    ({"vocab_size": 10**15}, "vocab_size: expected a whole number from 1 to 2,147,483,648"),
    ({"vocab_size": 10**9}, r"model.embed_tokens.weight: config.json implies \[1000000000, 48\], found \[320, 48\]"),
    ({"num_hidden_layers": 4000}, "num_hidden_layers is 4,000, found only"),
    ({"num_attention_heads": "ABSENT"}, "num_attention_heads: expected a whole number .*found None"),
    ({"num_key_value_heads": 4}, "num_kv_heads=4 must divide num_heads=6"),
    ({"num_attention_heads": 7, "head_dim": None}, "num_attention_heads: expected a divisor of hidden_size=48"),
    ({"head_dim": 7}, "head_dim=7 must be even"),
    ({"rope_theta": "x", "rope_parameters": None}, "rope_theta: "),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is true, but lm_head.weight is not the embedding"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_the_model_cannot_express_is_refused(folder, tmp_path, changes, said):
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=said):
        import_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": "ABSENT"},
        {"rope_scaling": None, "sliding_window": None, "layer_types": ["full_attention"] * 2},
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False},
        {"partial_rotary_factor": 1.0, "num_local_experts": 0, "attention_dropout": 0.0, "unknown": 1},
    ],
)
def test_keys_that_ask_for_nothing_special_are_fine(folder, changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    read_config({k: v for k, v in config.items() if v != "ABSENT"}, "config.json")


def test_defaults_are_those_of_transformers():
    import transformers

    for kind, special in (("Llama", {}), ("Qwen3", {}), ("Mistral", {"sliding_window": None})):
        config = getattr(transformers, f"{kind}Config")()
        bare = {"architectures": [f"{kind}ForCausalLM"], **special}
        bare |= {key: getattr(config, key) for key in ("vocab_size", "hidden_size", "intermediate_size",
                 "num_hidden_layers", "num_attention_heads", "max_position_embeddings")}  # fmt: skip
        shape = read_config(bare, kind).shape
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        assert (shape.num_kv_heads, shape.head_dim) == (config.num_key_value_heads, head_dim)
        assert (shape.rms_norm_eps, shape.tied) == (config.rms_norm_eps, config.tie_word_embeddings)
        assert (shape.activation, shape.rope_theta) == (config.hidden_act, config.default_theta)


def test_pickles_are_not_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle, .*safe_serialization=True"):
        import_model(folder, tmp_path / "out")


def test_an_index_does_not_lead_out_of_the_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "config.json"):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
        with pytest.raises(CheckpointError, match=r"expected names of .safetensors files beside it"):
            import_model(folder, tmp_path / "out")
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"gone.safetensors: cannot be read"):
        import_model(folder, tmp_path / "out")


def test_a_header_that_claims_more_than_the_file(folder, tmp_path):
    header = {"model.norm.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        import_model(folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        import_model(folder, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", '{"a": 1', "[" * 100_000])
def test_configs_that_are_no_json_object(folder, tmp_path, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json: expected"):
        import_model(folder, tmp_path / "out")


def test_old_rotary_tables_and_a_spare_head_are_dropped(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=True)
    written = import_model(folder, tmp_path / "out")
    assert len(load_file(tmp_path / "out" / "model.safetensors")) == len(tensors) - 2
    assert "no tokenizer.json" in written.notes[0]


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"PK\x03\x04 a zip")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
    for name, said in (("none", "no such file"), ("empty", "found neither"), ("file", "begins with b'PK"),
                       ("bad", "transformers cannot read it as GGUF")):  # fmt: skip
        with pytest.raises(CheckpointError, match=said):
            import_model(tmp_path / name, tmp_path / "out")
    (tmp_path / "bad" / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="expected one GGUF file, found 2"):
        import_model(tmp_path / "bad", tmp_path / "out")


def test_gguf_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match="needs the package gguf: pip install transformers accelerate gguf"):
        import_model(tmp_path / "a.gguf", tmp_path / "out")


def test_the_command(folder, tmp_path):
    runner, out = CliRunner(), tmp_path / "out"
    write_tokenizer(folder)
    done = runner.invoke(app, ["import", str(folder), str(out)])
    assert done.exit_code == 0, done.output
    assert f"LlamaForCausalLM of {shape(tied=False).parameters(VOCAB):,} parameters" in done.output
    change_config(folder, hidden_act="relu")
    broken = runner.invoke(app, ["import", str(folder), str(out), "--force"])
    assert "hidden_act: expected silu or gelu, found 'relu'" in str(broken.exception)
    assert (out / "config.json").exists()


def test_configurations_are_read_without_torch():
    code = "import sys, trainer.hf; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_the_config_of_this_trainer_is_one_that_it_reads():
    described = read_config(hf_config(shape(qk_norm=True), VOCAB, LENGTH, 7), "")
    assert described.special == {"bos_token_id": 7, "eos_token_id": 7}
