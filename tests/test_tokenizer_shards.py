"""Token shards: the rows of a batch and the index of the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.stage import Batch
from stages import tokenize_shards as shards
from stages import train_tokenizer as training
from stages.token_encoding import load
from tests.tokenizer_corpus import PARAMS, FakeCorpus, FakeTools, batch_of, make_texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    training.train_tokenizer(FakeCorpus(make_texts()), PARAMS, folder, FakeTools(folder))
    return folder


def test_tokenize_splits_by_hash(trained: Path) -> None:
    texts = make_texts(300)
    batch, tools = batch_of(texts), FakeTools(trained)
    out = shards.tokenize(batch, shards.Tokenize(validation_fraction=0.2), tools)
    assert out["train"].num_rows + out["validation"].num_rows == 300
    assert 30 < out["validation"].num_rows < 90
    expected = pa.schema({"doc_id": pa.string(), "input_ids": pa.list_(pa.uint16()), "n": pa.int32(),
                          "n_bytes": pa.int32()})  # fmt: skip
    tokenizer, _ = load(trained)
    by_id = dict(zip(batch["doc_id"].to_pylist(), texts, strict=True))
    for rows in out.values():
        assert rows.schema.equals(expected)
        for row in rows.to_pylist():
            text = by_id.pop(row["doc_id"])
            assert tokenizer.decode(row["input_ids"][:-1]) == text
            assert (row["input_ids"][-1], row["n"], row["n_bytes"]) == (0, len(row["input_ids"]), len(text.encode()))
    assert not by_id
    again = shards.tokenize(batch.take(np.arange(299, -1, -1)), shards.Tokenize(validation_fraction=0.2), tools)
    assert set(again["validation"]["doc_id"].to_pylist()) == set(out["validation"]["doc_id"].to_pylist())


def test_tokenize_without_eos_sliced_and_empty(trained: Path) -> None:
    tools, params = FakeTools(trained), shards.Tokenize(append_eos=False, validation_fraction=0)
    batch = batch_of(["x", "", "the fox", "dog"])
    sliced = Batch({name: batch[name].slice(1) for name in ("doc_id", "text")}, 3)
    out = shards.tokenize(sliced, params, tools)["train"]
    assert out["n"].to_pylist()[0] == 0
    assert load(trained)[0].decode(out["input_ids"][1].as_py()) == "the fox"
    empty = shards.tokenize(batch_of([]), params, tools)
    assert empty["train"].num_rows == empty["validation"].num_rows == 0
    with pytest.raises(ValueError, match="expected text in every live document"):
        shards.tokenize(batch_of(["a", None]), params, tools)


def test_index_names_shards_and_totals(trained: Path) -> None:
    def shard(path: str, split: str, rows: int, n: int) -> dict:
        return {
            "path": path,
            "source": "web" if path < "c" else "books",
            "split": split,
            "rows": rows,
            "bytes": 10,
            "sha256": "ab",
            "sums": {"n": n, "n_bytes": 4 * n},
        }

    given_shards = [shard("b.parquet", "train", 2, 30), shard("v.parquet", "validation", 1, 5),
                    shard("a.parquet", "train", 1, 10), shard("c.parquet", "validation", 0, 0)]  # fmt: skip
    found = shards.index(given_shards, shards.Tokenize(), FakeTools(trained))
    assert [entry["path"] for entry in found["shards"]] == ["a.parquet", "b.parquet", "v.parquet"]
    assert found["sources"] == {
        "web": {"train": {"rows": 3, "tokens": 40, "text_bytes": 160}},
        "books": {"validation": {"rows": 1, "tokens": 5, "text_bytes": 20}},
    }
    assert found["totals"] == {
        "train": {"rows": 3, "tokens": 40, "text_bytes": 160},
        "validation": {"rows": 1, "tokens": 5, "text_bytes": 20},
    }
    assert (found["format"], found["dtype"]) == ("tamis-tokens/1", "uint16")
    assert set(found["tokenizer"]) == {"fingerprint", "vocab_size", "eos_id", "eos_token"}
