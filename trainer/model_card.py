"""A short model card: what the files of a run say, and no more.

A number that is not on disk is left out. Nothing is said of the model's quality beyond what was measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.hf import Description, write_config


@dataclass(frozen=True)
class Facts:
    """Where a card's statements come from. `state` is the checkpoint's state.json, `run` its run directory."""

    name: str
    description: Description
    dtype: str
    state: dict[str, Any]
    run: Path | None
    checkpoint: Path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {_cell(value)} |\n" for key, value in rows)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _model_rows(facts: Facts) -> list[tuple[str, str]]:
    shape, model = facts.description.shape, facts.description
    heads = f"{shape.num_heads} heads of {shape.head_dim}, {shape.num_kv_heads} for keys and values"
    return [
        ("Class", f"`{write_config(model)['architectures'][0]}`, decoder only"),
        ("Parameters", f"{shape.parameters(model.vocab_size):,}"),
        ("Layers", f"{shape.num_layers} of width {shape.hidden_size}; {heads}"),
        ("Embedding", f"{model.vocab_size:,} rows" + (", shared with the output" if shape.tied else "")),
        ("Context", f"{model.seq_len:,} tokens"),
        ("Weights", facts.dtype),
    ]


def validation(checkpoint: Path, run: Path, step: int) -> float | None:
    """Validation bits per byte logged at `step`, from the log beside the checkpoint or in the run directory."""
    for log in (checkpoint.parent / "train.jsonl", run / "train.jsonl"):
        if log.exists():
            for line in reversed(log.read_text().splitlines()):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed run
                if row.get("step") == step:
                    return row.get("val_bits_per_byte")
    return None


def _training_rows(facts: Facts) -> list[tuple[str, str]]:
    config, step = facts.state.get("config", {}), int(facts.state.get("step", 0))
    rows = []
    manifest = _read(facts.run / "manifest.resolved.json") if facts.run else {}
    if manifest.get("name"):
        rows.append(("Manifest", f"`{manifest['name']}`"))
    rows.append(("Optimizer steps", f"{step:,}"))
    if config.get("global_batch") and config.get("seq_len"):
        rows.append(("Training tokens", f"{step * config['global_batch'] * config['seq_len']:,}"))
    if config.get("init_from"):
        rows.append(("First weights", f"`{Path(config['init_from']).name}`"))
    measured = validation(facts.checkpoint, facts.run, step) if facts.run else None
    if measured is not None:
        rows.append(("Validation", f"{measured:.4f} bits per byte, on a fixed sample of held-out documents"))
    return rows


def _data(run: Path) -> str:
    """The sources with their licences as the manifest states them, and their tokens where the index counts them."""
    sources = _read(run / "manifest.resolved.json").get("sources", [])
    index = _read(run / "tokens" / "index.json")
    if not sources:
        return ""
    counted = index.get("sources", {})
    lines = ["## Data\n\n| Source | Format | Licence | Training tokens in the corpus |\n|---|---|---|--:|\n"]
    for source in sources:
        tokens = counted.get(source["name"], {}).get("train", {}).get("tokens")
        cells = [source["name"], source.get("format", ""), source.get("licence") or "not stated"]
        lines.append(f"| {' | '.join(map(_cell, cells))} | {f'{tokens:,}' if tokens is not None else ''} |\n")
    total = index.get("totals", {}).get("train", {}).get("tokens")
    if total is not None:
        lines.append(f"\n{total:,} training tokens in all after the filters of the manifest.\n")
    return "".join(lines) + "\n"


def render(facts: Facts) -> str:
    """The card as Markdown with the metadata that the Hugging Face hub reads."""
    imported = facts.state.get("imported")
    step = int(facts.state.get("step", 0))
    text = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
    text += f"# {facts.name}\n\n{_table(_model_rows(facts))}\n"
    if imported:
        text += f"The weights are those of `{imported['from']}`, not trained further.\n\n"
    elif step:
        text += f"## Training\n\n{_table(_training_rows(facts))}\n"
        text += "A base model: not tuned to follow instructions, and not assessed beyond the numbers above.\n\n"
    if facts.run and not imported:
        text += _data(facts.run)
    return text + (
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\nmodel = AutoModelForCausalLM.from_pretrained(".")\n'
        'ids = tokenizer("Once upon a time", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0]))\n```\n"
    )
