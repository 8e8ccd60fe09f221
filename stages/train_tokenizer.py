"""Byte-level BPE tokenizer, trained on a sample of the corpus that the parameters state in full.

The sample is the documents in ascending order of a hash of their id until `sample_bytes` is reached, where one
host gives at most `max_host_share` of it, so that no site over-fits the vocabulary. It is then read in corpus
order. Neither the number of workers nor the order of arrival enters, so the same corpus gives the same bytes.

Trade-off: the merges come from the `tokenizers` library (Rust), which trains in one process and holds the distinct
pre-tokens of the sample in memory: about 10 MB/s per core and 1 to 2 GB for the default sample. Two scans of the
text are made, one for sizes and one to feed the trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.stage import Corpus, Params, Tools, artifact_stage, unit_hash
from stages.tokenize_shards import encode, pieces

EOS = "<|endoftext|>"

# The two published splits, with the part for numbers left open. `gpt2` with `runs` is GPT-2's own (Radford et al.
# 2019, encoder.py); `llama3` with `three` is Llama 3's (Meta 2024, tokenizer.py), which is tiktoken's cl100k_base.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
NUMBERS = {"runs": r" ?\p{N}+", "three": r"\p{N}{1,3}", "single": r"\p{N}"}


class TrainTokenizer(Params):
    vocab_size: int = Field(32_768, ge=320, le=1 << 20, multiple_of=64, description="ids, special tokens included")
    pattern: Literal["gpt2", "llama3"] = Field("llama3", description="how text is split before merging")
    digits: Literal["runs", "three", "single"] = Field(
        "three", description="numbers as whole runs, groups of up to three digits, or one digit each"
    )
    min_frequency: int = Field(2, ge=1, description="times that a pair must occur to be merged")
    max_token_bytes: int = Field(64, ge=2, description="no token is longer: keeps rulers of dashes out")
    special_tokens: tuple[str, ...] = Field((), description=f"further special tokens, after {EOS} (id 0)")
    sample_bytes: int = Field(256_000_000, ge=1, description="UTF-8 bytes of text to train on, at most")
    max_host_share: float = Field(0.05, gt=0, le=1, description="of sample_bytes, from one host at most")
    held_out_fraction: float = Field(0.02, ge=0, lt=1, description="of documents, kept out of the sample to measure on")
    held_out_bytes: int = Field(8_000_000, ge=0, description="UTF-8 bytes of held-out text to measure on, at most")

    @field_validator("special_tokens")
    @classmethod
    def _distinct(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if len({*tokens, EOS, ""}) != len(tokens) + 2:
            raise ValueError(f"expected distinct, non-empty tokens other than {EOS}, found {list(tokens)}")
        return tokens


@dataclass(frozen=True)
class Sample:
    """Masks over the documents of the corpus, and the size of what they name."""

    train: np.ndarray  # bool
    held_out: np.ndarray  # bool
    sizes: np.ndarray  # int64 UTF-8 bytes
    hosts: int
    capped_documents: int


def split_pattern(pattern: str, digits: str) -> str:
    """The regular expression (Oniguruma) whose matches are the pre-tokens; they cover the text without a gap."""
    return PATTERNS[pattern].replace("NUMBER", NUMBERS[digits])


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


def _prefix(order: np.ndarray, sizes: np.ndarray, limit: float) -> np.ndarray:
    """The documents of `order` up to the one that reaches `limit` bytes."""
    before = np.cumsum(sizes[order]) - sizes[order]
    return order[before < limit]


def choose(doc_ids: pa.Array, hosts: pa.Array, sizes: np.ndarray, params: TrainTokenizer, seed: int) -> Sample:
    """The sample, from id (32 hex digits), host and size in bytes of each document. No order of the rows enters."""
    mask = unit_hash(doc_ids, seed, "tokenizer/held-out") < params.held_out_fraction
    rank = unit_hash(doc_ids, seed, "tokenizer/sample")
    order = np.argsort(rank, kind="stable")

    held_out = np.zeros(len(sizes), bool)
    held_out[_prefix(order[mask[order]], sizes, params.held_out_bytes)] = True

    codes = pc.fill_null(hosts, "").dictionary_encode()
    code = np.asarray(codes.indices)
    candidates = order[~mask[order] & (sizes[order] > 0)]
    by_host = candidates[np.argsort(code[candidates], kind="stable")]  # ascending hash within each host
    before = np.cumsum(sizes[by_host]) - sizes[by_host]
    first = np.searchsorted(code[by_host], code[by_host], side="left")
    within = before - before[first]
    allowed = np.zeros(len(sizes), bool)
    allowed[by_host[within < params.max_host_share * params.sample_bytes]] = True

    train = np.zeros(len(sizes), bool)
    train[_prefix(candidates[allowed[candidates]], sizes, params.sample_bytes)] = True
    distinct = len(np.unique(code[train]))
    return Sample(train, held_out, sizes, distinct, len(candidates) - int(allowed.sum()))


def _texts(corpus: Corpus, mask: np.ndarray) -> Iterator[pa.Array]:
    start = 0
    for batch in corpus.batches("text"):
        rows = np.flatnonzero(mask[start : start + batch.num_rows])
        start += batch.num_rows
        if len(rows):
            yield batch["text"].take(pa.array(rows))


def _survey(corpus: Corpus, params: TrainTokenizer, seed: int) -> Sample:
    ids, hosts, sizes = [], [], []
    for batch in corpus.batches("doc_id", "text", "host"):
        ids.append(batch["doc_id"])
        hosts.append(batch["host"])
        sizes.append(np.asarray(pc.fill_null(pc.binary_length(batch["text"]), 0)).astype(np.int64))
    if not ids:
        raise ValueError(
            "train_tokenizer: expected at least one live document, found none: loosen the stages before it"
        )
    return choose(pa.concat_arrays(ids), pa.concat_arrays(hosts), np.concatenate(sizes), params, seed)


def measure(tokenizer: Tokenizer, texts: Iterator[pa.Array]) -> dict[str, Any]:
    """Documents, bytes, tokens and bytes per token of the texts; `used` counts the distinct ids that occur."""
    documents = size = tokens = 0
    seen = np.zeros(tokenizer.get_vocab_size(), bool)
    for text in texts:
        ids, _ = encode(tokenizer, text, pa.uint32(), None)
        documents += len(text)
        size += pc.sum(pc.binary_length(text)).as_py()
        tokens += len(ids.values)
        seen[ids.values.to_numpy()] = True
    rate = round(size / tokens, 4) if tokens else None
    return {"documents": documents, "bytes": size, "tokens": tokens, "bytes_per_token": rate, "used": int(seen.sum())}


@artifact_stage("train_tokenizer", TrainTokenizer, reads=("doc_id", "text", "host"), publish="tokenizer")
def train_tokenizer(corpus: Corpus, params: TrainTokenizer, out: Path, tools: Tools) -> dict[str, Any]:
    """Train and write `tokenizer.json`, what `transformers.AutoTokenizer` needs beside it, and `artifact.json`.

    The vocabulary has `vocab_size` ids where the sample holds that many merges, else fewer; it is filled to a
    multiple of 64 with special tokens `<|reserved_N|>`. Raises ValueError when no live document has text.
    """
    sample = _survey(corpus, params, tools.seed)
    if not sample.train.any():
        raise ValueError("train_tokenizer: expected text in the sample, found none: lower held_out_fraction")
    tokenizer = untrained(params.pattern, params.digits)
    trainer = trainers.BpeTrainer(
        vocab_size=params.vocab_size,
        min_frequency=params.min_frequency,
        max_token_length=params.max_token_bytes,
        special_tokens=[EOS, *params.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    batches = _texts(corpus, sample.train)
    tokenizer.train_from_iterator(([p for text in b.to_pylist() for p in pieces(text)] for b in batches), trainer)
    learned = tokenizer.get_vocab_size()
    reserved = -learned % 64
    tokenizer.add_special_tokens([f"<|reserved_{number}|>" for number in range(reserved)])
    tokenizer.encode_special_tokens = True  # a page that spells a special token is text
    data = (tokenizer.to_str(pretty=True) + "\n").encode()
    report = {
        "format": "tamis-tokenizer/1",
        "fingerprint": hashlib.sha256(data).hexdigest(),
        "vocab_size": learned + reserved,
        "reserved": reserved,
        "eos_token": EOS,
        "eos_id": tokenizer.token_to_id(EOS),
        "split": split_pattern(params.pattern, params.digits),
        "sample": {
            "documents": int(sample.train.sum()),
            "bytes": int(sample.sizes[sample.train].sum()),
            "hosts": sample.hosts,
            "documents_over_host_share": sample.capped_documents,
        },
        "held_out": measure(tokenizer, _texts(corpus, sample.held_out)),
    }
    (out / "tokenizer.json").write_bytes(data)
    special = {"bos_token": EOS, "eos_token": EOS}
    config = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(params.special_tokens),
    }
    for name, content in (("tokenizer_config", config), ("special_tokens_map", special), ("artifact", report)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return report
