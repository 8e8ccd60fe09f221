"""Tokenizer training and token shards: definitions, determinism, exact round trips on hostile text."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pipeline.stage import Batch, unit_hash
from stages import tokenize_shards as shards
from stages import train_tokenizer as training

SHARED = Path(__file__).resolve().parents[2] / "shared"
WORDS = ["the", "quick", " brown", "fox", "jumps", "over", "12", "345", "don't", "sleep;", "naïve", "東京", "Привет\n"]


class FakeTools:
    seed = 7
    node = "tokenize"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def artifact(self, node: str) -> Path:
        assert node == "train_tokenizer"
        return self.folder


class FakeCorpus:
    def __init__(self, texts: list[str], hosts: list[str] | None = None, step: int = 37) -> None:
        ids = [hashlib.md5(text.encode()).hexdigest() for text in texts]
        self.columns = {
            "doc_id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "host": pa.array(hosts or [f"host{n % 9}" for n in range(len(texts))], pa.string()),
        }
        self.num_docs = len(texts)
        self.step = step

    def batches(self, *names: str):
        for start in range(0, self.num_docs, self.step):
            part = {name: self.columns[name].slice(start, self.step) for name in names}
            yield Batch(part, len(next(iter(part.values()))))


def make_texts(count: int = 400) -> list[str]:
    rng = np.random.default_rng(3)
    return [f"{n} " + " ".join(rng.choice(WORDS, 60)) for n in range(count)]


PARAMS = training.TrainTokenizer(vocab_size=448)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    training.train_tokenizer(FakeCorpus(make_texts()), PARAMS, folder, FakeTools(folder))
    return folder


def batch_of(texts: list[str | None]) -> Batch:
    ids = [hashlib.md5(str(n).encode()).hexdigest() for n in range(len(texts))]
    return Batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}, len(texts))


def hostile() -> list[str]:
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    return [
        "",
        "\x00\x00\r\n\r\r\n\t \u2028\u00a0\ufeff\u0085",
        "<|endoftext|> a page that spells <|endoftext|><|reserved_0|> special tokens",
        everything,
        " " * 700_000 + "x",
        "\n" * 700_000,
        "a" * 700_000,
        "漢" * 300_000,
        "1234567890" * 30_000,
        "e\u0301" * 1000 + "👩‍👩‍👧‍👦" * 500,
    ]


def test_hostile_text_round_trips(trained: Path) -> None:
    texts = hostile()
    tokenizer, info = shards.load(trained)
    ids, counts = shards.encode(tokenizer, pa.array(texts), pa.uint16(), info["eos_id"])
    for row, text in enumerate(texts):
        numbers = ids[row].as_py()
        assert len(numbers) == counts[row]
        assert numbers[-1] == 0
        assert 0 not in numbers[:-1], "a page must not forge an end of text"
        assert tokenizer.decode(numbers[:-1], skip_special_tokens=False) == text


def test_a_document_of_five_megabytes(trained: Path) -> None:
    text = "\n".join(make_texts(2000) * 10)[:5_000_000]
    tokenizer, _ = shards.load(trained)
    assert len(shards.pieces(text)) > 10
    ids, _ = shards.encode(tokenizer, pa.array([text]), pa.uint16(), None)
    assert tokenizer.decode(ids.values.to_pylist()) == text
    head = text[: 3 * shards.PIECE]  # cut into pieces, and yet the ids of the whole
    ids, _ = shards.encode(tokenizer, pa.array([head]), pa.uint16(), None)
    assert ids.values.to_pylist() == tokenizer.encode(head, add_special_tokens=False).ids


ALPHABET = st.sampled_from(
    [" ", "\n", "\r", "\t", "a", "B", "é", "東", "1", "22", ".", "'s", "'", "\u00a0", "\u2028", "-"]
)


@given(st.lists(ALPHABET, max_size=60).map("".join), st.sampled_from(["gpt2", "llama3"]))
@settings(max_examples=300, deadline=None)
def test_pieces_cut_only_between_pre_tokens(text: str, pattern: str) -> None:
    tokenizer = training.untrained(pattern, "three")
    whole = [token for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    for match in shards.LINE_BREAK.finditer(text):
        parts = [text[: match.end()], text[match.end() :]]
        assert whole == [token for part in parts for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(part)]


@given(st.text(alphabet=st.sampled_from("ab\n "), max_size=200), st.integers(2, 20))
@settings(max_examples=200, deadline=None)
def test_pieces_partition_the_text(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "PIECE", size)
        found = shards.pieces(text)
    assert "".join(found) == text
    assert all(len(piece) <= size for piece in found)


@pytest.mark.parametrize(
    ("pattern", "digits", "expected"),
    [
        ("gpt2", "runs", ["It", "'s", " 12345", " don", "'t", ",", " ", " x"]),
        ("gpt2", "single", ["It", "'s", " ", "1", "2", "3", "4", "5", " don", "'t", ",", " ", " x"]),
        ("llama3", "three", ["It", "'s", " ", "123", "45", " don", "'t", ",", " ", " x"]),
        ("llama3", "runs", ["It", "'s", " 12345", " don", "'t", ",", " ", " x"]),
    ],
)
def test_split_patterns(pattern: str, digits: str, expected: list[str]) -> None:
    text = "It's 12345 don't,  x"
    pairs = training.untrained(pattern, digits).pre_tokenizer.pre_tokenize_str(text)
    assert [text[slice(*span)] for _, span in pairs] == expected


def test_gpt2_pattern_gives_gpt2_ids() -> None:
    folder = SHARED / "data/tokenizers"
    if not folder.exists():
        pytest.skip("GPT-2's files and the gold encodings are not at hand (shared/data/tokenizers)")
    tokenizer = training.untrained("gpt2", "runs")
    tokenizer.model = models.BPE.from_file(str(folder / "gpt2-vocab.json"), str(folder / "gpt2-merges.txt"))
    with gzip.open(folder / "gold_encodings.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    ids, _ = shards.encode(tokenizer, pa.array([row["text"] for row in rows]), pa.uint16(), None)
    assert ids.to_pylist() == [row["gpt2"] for row in rows]


def test_training_is_the_same_on_any_number_of_threads(trained: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import tests.test_tokenizer as t\n"
        "t.training.train_tokenizer(t.FakeCorpus(t.make_texts(), step=int(sys.argv[2])), t.PARAMS,"
        " Path(sys.argv[1]), t.FakeTools(Path()))"
    )
    for number, (parallel, threads, step) in enumerate([("true", "4", "37"), ("false", "1", "400")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": threads}
        root = Path(__file__).resolve().parents[1]
        subprocess.run([sys.executable, "-c", script, str(folder), step], check=True, cwd=root, env=env)
        for name in ("tokenizer.json", "artifact.json", "tokenizer_config.json", "special_tokens_map.json"):
            assert (folder / name).read_bytes() == (trained / name).read_bytes(), name


def test_artifact_and_vocabulary(trained: Path) -> None:
    info = json.loads((trained / "artifact.json").read_text())
    data = (trained / "tokenizer.json").read_bytes()
    assert info["fingerprint"] == hashlib.sha256(data).hexdigest()
    assert info["vocab_size"] == Tokenizer.from_str(data.decode()).get_vocab_size()
    assert info["vocab_size"] % 64 == 0
    assert info["eos_id"] == 0
    assert info["held_out"]["bytes_per_token"] > 1
    assert info["held_out"]["documents"] + info["sample"]["documents"] == 400


def test_small_samples_fill_the_vocabulary_with_reserved_tokens(tmp_path: Path) -> None:
    params = training.TrainTokenizer(vocab_size=1024, special_tokens=("<|user|>",), held_out_fraction=0)
    info = training.train_tokenizer(FakeCorpus(["abc abc abc"]), params, tmp_path, FakeTools(tmp_path))
    assert (info["vocab_size"], info["reserved"] > 0) == (320, True)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("<|user|>") == 1
    assert info["held_out"]["bytes_per_token"] is None


def test_transformers_loads_it(trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(str(trained))
    assert (loaded.eos_token, loaded.bos_token, loaded.eos_token_id) == ("<|endoftext|>", "<|endoftext|>", 0)
    tokenizer, info = shards.load(trained)
    assert len(loaded) == info["vocab_size"]
    for text in ["the quick brown fox , doesn 't sleep .", " 東京 \r\n  naïve", "".join(map(chr, range(1, 3000)))]:
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.encode(text).ids
        assert loaded.decode(ids) == text


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 400),
       st.floats(0.05, 1), st.randoms())  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_sample_does_not_depend_on_the_order_of_documents(docs, limit: int, share: float, random) -> None:
    params = training.TrainTokenizer(sample_bytes=limit, max_host_share=share, held_out_fraction=0.2)
    ids = [hashlib.md5(str(n).encode()).hexdigest() for n in range(len(docs))]

    def chosen(order: list[int]) -> tuple[set[int], set[int]]:
        sample = training.choose(
            pa.array([ids[n] for n in order]),
            pa.array([f"h{docs[n][1]}" for n in order]),
            np.array([docs[n][0] for n in order], np.int64),
            params,
            seed=3,
        )
        return {order[i] for i in np.flatnonzero(sample.train)}, {order[i] for i in np.flatnonzero(sample.held_out)}

    order = list(range(len(docs)))
    train, held_out = chosen(order)
    random.shuffle(order)
    assert chosen(order) == (train, held_out)
    assert not train & held_out
    # the obvious version: walk the documents by hash
    rank = unit_hash(pa.array(ids), 3, "tokenizer/sample")
    mask = unit_hash(pa.array(ids), 3, "tokenizer/held-out") < 0.2
    expected, total, by_host = set(), 0, dict.fromkeys(range(5), 0)
    for n in sorted(range(len(docs)), key=lambda n: rank[n]):
        size, host = docs[n]
        if mask[n] or not size:
            continue
        if by_host[host] < share * limit:
            if total < limit:
                expected.add(n)
                total += size
            by_host[host] += size
    assert train == expected


def test_tokenize_splits_by_hash(trained: Path) -> None:
    texts = make_texts(300)
    batch, tools = batch_of(texts), FakeTools(trained)
    out = shards.tokenize(batch, shards.Tokenize(validation_fraction=0.2), tools)
    assert out["train"].num_rows + out["validation"].num_rows == 300
    assert 30 < out["validation"].num_rows < 90
    expected = pa.schema({"doc_id": pa.string(), "input_ids": pa.list_(pa.uint16()), "n": pa.int32(),
                          "n_bytes": pa.int32()})  # fmt: skip
    tokenizer, _ = shards.load(trained)
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
    assert shards.load(trained)[0].decode(out["input_ids"][1].as_py()) == "the fox"
    empty = shards.tokenize(batch_of([]), params, tools)
    assert empty["train"].num_rows == empty["validation"].num_rows == 0
    with pytest.raises(ValueError, match="expected text in every live document"):
        shards.tokenize(batch_of(["a", None]), params, tools)


def test_index_names_shards_and_totals(trained: Path) -> None:
    def shard(path: str, split: str, rows: int, n: int) -> dict:
        return {
            "path": path,
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
    assert found["totals"] == {
        "train": {"rows": 3, "tokens": 40, "text_bytes": 160},
        "validation": {"rows": 1, "tokens": 5, "text_bytes": 20},
    }
    assert (found["format"], found["dtype"]) == ("tamis-tokens/1", "uint16")
    assert set(found["tokenizer"]) == {"fingerprint", "vocab_size", "eos_id", "eos_token"}


def test_errors(trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "artifact.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match="expected SHA-256"):
        shards.load(tmp_path)
    with pytest.raises(ValueError, match="at least one live document"):
        training.train_tokenizer(FakeCorpus([]), PARAMS, tmp_path, FakeTools(tmp_path))
    with pytest.raises(ValueError, match="multiple of 64"):
        training.TrainTokenizer(vocab_size=1000)
    with pytest.raises(ValueError, match="distinct"):
        training.TrainTokenizer(special_tokens=("<|endoftext|>",))
    assert shards.id_type(65_536) == pa.uint16()
    assert shards.id_type(65_600) == pa.uint32()
