"""Tokenizer training: definitions, the same bytes on any number of threads and in any order, what loads it, the
report."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models

from pipeline.report import tokenizer as card
from pipeline.stage import StageError
from stages import reference_tokenizers, tokenizer_report
from stages import token_encoding as encoding
from stages import train_tokenizer as training
from tests.tokenizer_corpus import PARAMS, FakeCorpus, FakeTools, make_texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    training.train_tokenizer(FakeCorpus(make_texts()), PARAMS, folder, FakeTools(folder))
    return folder


def test_training_is_the_same_on_any_number_of_threads(trained: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import tests.tokenizer_corpus as t\n"
        "from stages.train_tokenizer import train_tokenizer\n"
        "train_tokenizer(t.FakeCorpus(t.make_texts(), step=int(sys.argv[2])), t.PARAMS, Path(sys.argv[1]),"
        " t.FakeTools(Path()))"
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
    tokenizer, info = encoding.load(trained)
    assert len(loaded) == info["vocab_size"]
    for text in ["the quick brown fox , doesn 't sleep .", " 東京 \r\n  naïve", "".join(map(chr, range(1, 3000)))]:
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer.encode(text).ids
        assert loaded.decode(ids) == text


def test_errors(trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "artifact.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match="expected SHA-256"):
        encoding.load(tmp_path)
    with pytest.raises(ValueError, match="at least one live document"):
        training.train_tokenizer(FakeCorpus([]), PARAMS, tmp_path, FakeTools(tmp_path))
    with pytest.raises(ValueError, match="multiple of 64"):
        training.TrainTokenizer(vocab_size=1000)
    with pytest.raises(ValueError, match="multiple of 128"):
        training.TrainTokenizer(vocab_size=448, vocab_multiple=128)
    with pytest.raises(ValueError, match="distinct"):
        training.TrainTokenizer(special_tokens=("<|endoftext|>",))
    assert encoding.id_type(65_536) == pa.uint16()
    assert encoding.id_type(65_600) == pa.uint32()


def test_any_order_of_rows_gives_the_same_tokenizer(trained: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        corpus = FakeCorpus(make_texts(), step=50, shuffle=seed)
        training.train_tokenizer(corpus, PARAMS, folder, FakeTools(folder))
        assert (folder / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()


def test_vocabulary_of_a_multiple_of_128(tmp_path: Path) -> None:
    params = training.TrainTokenizer(vocab_size=384, vocab_multiple=128, held_out_fraction=0)
    assert training.train_tokenizer(FakeCorpus(["a b"]), params, tmp_path, FakeTools(tmp_path))["vocab_size"] == 384


def test_the_report_beside_a_reference(trained: Path, tmp_path: Path) -> None:
    params = training.TrainTokenizer(vocab_size=320, references=(str(trained), "gpt2"), held_out_fraction=0.1)
    info = training.train_tokenizer(FakeCorpus(make_texts()), params, tmp_path, FakeTools(tmp_path))
    held = info["held_out"]
    this, other, gpt2 = held["tokenizers"]
    assert (this["name"], other["name"]) == ("this", str(trained))
    assert this["bytes_per_token"] < other["bytes_per_token"]  # 320 ids against 448
    assert "note" in gpt2 or gpt2["bytes_per_token"] > 1
    by_kind = {row["name"]: row for row in held["groups"]["kind"]}
    assert set(by_kind) == {"web", ""}
    assert sum(row["bytes"] for row in by_kind.values()) == held["bytes"]
    tokens = sum(row["bytes"] / row["bytes_per_token"]["this"] for row in by_kind.values())
    assert tokens == pytest.approx(held["tokens"], rel=1e-3)
    assert info["sample"]["shares"]["kind"]["web"] == pytest.approx(0.8, abs=0.05)
    shown = card.section(info)
    assert [row["name"] for row in shown["rows"]] == ["All held out", "crawl", "books", "web", "(none)"]
    assert len(shown["rows"][0]["rates"]) == len(shown["columns"])
    assert all("".join(tokens) for tokens in info["examples"])


def test_unused_and_rare_tokens() -> None:
    tokenizer = training.untrained("gpt2", "runs")
    vocab = {name: number for number, name in enumerate(sorted(encoding.alphabet()))}
    merges = [("a", "b"), ("ab", "c"), ("d", "e")]
    for first, second in merges:
        vocab[first + second] = len(vocab)
    tokenizer.model = models.BPE(vocab, merges)

    def run(text: pa.Array) -> tuple:
        ids, counts = encoding.encode(tokenizer, text, pa.uint32(), None)
        return ids.values.to_numpy(), counts

    found = tokenizer_report.vocabulary(tokenizer, set(), run, iter([pa.array(["abc" * 40_000 + "de"])]))
    assert (found["learned"], found["unused"], found["rare"]) == (3, 1, 1)  # ab, de
    assert found["rare_below"] == pytest.approx(40_001 / 259 / 100, abs=0.01)
    assert [row["text"] for row in found["longest"]] == ["abc", "ab", "de"]
    empty = tokenizer_report.vocabulary(tokenizer, set(), run, iter([]))
    assert empty["unused"] == 3


def test_references_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="found nothing"):
        reference_tokenizers.identity(("nowhere.json",))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StageError, match=r"expected a tokenizer\.json"):
        reference_tokenizers.load(str(tmp_path))
    assert len(reference_tokenizers.identity((str(tmp_path),))) == 64
