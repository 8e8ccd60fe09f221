"""Byte-level BPE tokenizer, trained on a sample of the corpus that the parameters state in full.

`tokenizer_sample` chooses the documents, `tokenizer_report` measures the result beside `reference_tokenizers`. Neither
the number of workers nor the order of arrival enters, so the same corpus gives the same bytes.

Trade-off: the merges come from the `tokenizers` library (Rust), which trains in one process and holds the distinct
pre-tokens of the sample in memory: 3 to 6 MB per CPU-second on all cores; 240 MB of memory for 35 MB of text in many
languages, 320 MB for 70 MB. The text is scanned five times: sizes, training, use of the vocabulary, held-out text and
examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.stage import Corpus, Tools, artifact_stage
from stages import reference_tokenizers
from stages.token_encoding import encode, pieces, split_pattern
from stages.tokenizer_report import examples, held_out, vocabulary
from stages.tokenizer_sample import SampleParams, choose, describe, survey

OWN = "this"  # name of the new tokenizer in the report
REPORTED = ("source", "kind")
EOS = "<|endoftext|>"


class TrainTokenizer(SampleParams):
    vocab_size: int = Field(32_768, ge=320, le=1 << 20, description="ids, special tokens included")
    vocab_multiple: Literal[64, 128] = Field(64, description="the number of ids is a multiple of this")
    pattern: Literal["gpt2", "llama3"] = Field("llama3", description="how text is split before merging")
    digits: Literal["runs", "three", "single"] = Field(
        "three", description="numbers as whole runs, groups of up to three digits, or one digit each"
    )
    min_frequency: int = Field(2, ge=1, description="times that a pair must occur to be merged")
    max_token_bytes: int = Field(64, ge=2, description="no token is longer: keeps rulers of dashes out")
    special_tokens: tuple[str, ...] = Field((), description=f"further special tokens, after {EOS} (id 0)")
    references: tuple[str, ...] = Field(
        (), description="tokenizers to measure beside: gpt-neox, gpt2, or paths of tokenizer.json files"
    )

    @field_validator("special_tokens")
    @classmethod
    def _special(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if len({*tokens, EOS, ""}) != len(tokens) + 2:
            raise ValueError(f"expected distinct, non-empty tokens other than {EOS}, found {list(tokens)}")
        return tokens

    @model_validator(mode="after")
    def _multiple(self) -> TrainTokenizer:
        if self.vocab_size % self.vocab_multiple:
            raise ValueError(f"expected vocab_size to be a multiple of {self.vocab_multiple}, found {self.vocab_size}")
        return self


def untrained(pattern: str, digits: str) -> Tokenizer:
    """A byte-level BPE tokenizer without merges: no normaliser, no prefix space, so that decoding is exact."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split_pattern(pattern, digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _texts(corpus: Corpus, mask: np.ndarray) -> Iterator[pa.Array]:
    """Texts of the documents in the mask, in corpus order; null reads as empty."""
    start = 0
    for batch in corpus.batches("text"):
        rows = np.flatnonzero(mask[start : start + batch.num_rows])
        start += batch.num_rows
        if len(rows):
            yield pc.fill_null(batch["text"].take(pa.array(rows)), "")


def _columns(params: TrainTokenizer) -> tuple[str, ...]:
    """The columns of text that the sample or the report needs."""
    return tuple(dict.fromkeys(("host", *REPORTED, *(balance.column for balance in params.balance))))


@artifact_stage(
    "train_tokenizer",
    TrainTokenizer,
    reads=lambda params: ("doc_id", "text", *_columns(params)),
    publish="tokenizer",
    version=2,
    identity=lambda params: reference_tokenizers.identity(params.references),
)
def train_tokenizer(corpus: Corpus, params: TrainTokenizer, out: Path, tools: Tools) -> dict[str, Any]:
    """Train and write `tokenizer.json`, what `transformers.AutoTokenizer` needs beside it, and `artifact.json`.

    The vocabulary has `vocab_size` ids where the sample holds that many merges, else fewer; it is filled to a
    multiple of `vocab_multiple` with special tokens `<|reserved_N|>`. Raises ValueError when no live document has
    text, StageError for a reference that cannot be read.
    """
    references = {name: reference_tokenizers.load(name) for name in params.references}  # before the work, not after
    docs = survey(corpus, _columns(params), tools.seed)
    if not len(docs.sizes):
        raise ValueError(
            "train_tokenizer: expected at least one live document, found none: loosen the stages before it"
        )
    sample = choose(docs, params)
    if not sample.train.any():
        raise ValueError(
            "train_tokenizer: expected text in the sample, found none: lower held_out_fraction, or give the values of "
            "the corpus a share in `balance`"
        )
    tokenizer, reserved = train(_texts(corpus, sample.train), params)
    vocab_size = tokenizer.get_vocab_size()
    data = (tokenizer.to_str(pretty=True) + "\n").encode()

    def run(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        ids, counts = encode(tokenizer, text, pa.uint32(), None)
        return ids.values.to_numpy(), counts

    special = {EOS, *params.special_tokens, *reserved}
    rows = pa.array(np.flatnonzero(sample.held_out))
    groups = {name: values.take(rows) for name, values in docs.groups.items() if name not in ("host", "domain")}
    report = {
        "format": "tamis-tokenizer/1",
        "fingerprint": hashlib.sha256(data).hexdigest(),
        "vocab_size": vocab_size,
        "reserved": len(reserved),
        "eos_token": EOS,
        "eos_id": tokenizer.token_to_id(EOS),
        "split": split_pattern(params.pattern, params.digits),
        "sample": {**describe(docs, sample.train), "documents_over_host_share": sample.capped},
        "held_out": held_out({OWN: (vocab_size, run), **references}, _texts(corpus, sample.held_out), groups),
        "vocabulary": vocabulary(tokenizer, special, run, _texts(corpus, sample.train)),
        "examples": examples(tokenizer, run, _texts(corpus, sample.held_out)),
    }
    (out / "tokenizer.json").write_bytes(data)
    ends = {"bos_token": EOS, "eos_token": EOS}
    config = {
        **ends,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(params.special_tokens),
    }
    for name, content in (("tokenizer_config", config), ("special_tokens_map", ends), ("artifact", report)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return report


def train(texts: Iterator[pa.Array], params: TrainTokenizer) -> tuple[Tokenizer, list[str]]:
    """A tokenizer trained on the texts, whatever their order, and its reserved tokens."""
    tokenizer = untrained(params.pattern, params.digits)
    trainer = trainers.BpeTrainer(
        vocab_size=params.vocab_size,
        min_frequency=params.min_frequency,
        max_token_length=params.max_token_bytes,
        special_tokens=[EOS, *params.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(([p for text in b.to_pylist() for p in pieces(text)] for b in texts), trainer)
    reserved = [f"<|reserved_{number}|>" for number in range(-tokenizer.get_vocab_size() % params.vocab_multiple)]
    tokenizer.add_special_tokens(reserved)
    tokenizer.encode_special_tokens = True  # a page that spells a special token is text
    return tokenizer, reserved
