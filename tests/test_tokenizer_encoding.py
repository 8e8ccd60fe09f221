"""Encoding: the ids of the library `tokenizers`, the published ids of GPT-2 and GPT-NeoX, exact on hostile text."""

from __future__ import annotations

import gzip
import json
import threading
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from stages import token_encoding as encoding
from stages import train_tokenizer as training
from stages.kernels import bpe, pretokens
from tests.hostile import HOSTILE, big
from tests.tokenizer_corpus import PARAMS, FakeCorpus, FakeTools, make_texts

SHARED = Path(__file__).resolve().parents[2] / "shared/data/tokenizers"
KINDS = [(pattern, digits) for pattern in ("gpt2", "llama3") for digits in ("runs", "three", "single")]
NASTY = [" ", "  ", "\n", "\r", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "a", "B", "don", "é", "ſ",
         "ß", "ŉ", "東", "京都", "1", "22", "333", "½", "٣", "²", "Ⅷ", ".", "'", "'s", "'S", "'ſ", "'Re", "'vE", "'LL",
         "'m", "'D", "-", "\u0301", "👩", "\u200d", "\U0001d518", "\U0010ffff", "\ufeff", "\x00",
         "<|endoftext|>"]  # fmt: skip
ALL = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    training.train_tokenizer(FakeCorpus(make_texts()), PARAMS, folder, FakeTools(folder))
    return folder


@cache
def small(pattern: str, digits: str) -> Tokenizer:
    """A tokenizer trained on nasty text, so that merges cross everything that they may."""
    tokenizer = training.untrained(pattern, digits)
    rng = np.random.default_rng(5)
    texts = ["".join(rng.choice(NASTY, 300)) for _ in range(300)] + ["".join(rng.choice(list("ab c"), 200)) * 3]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, show_progress=False,
                                  initial_alphabet=training.pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    return tokenizer


def both(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids by the compiled code and by the library."""
    assert encoding.compiled_of(tokenizer) is not None
    ids, counts = encoding.encode(tokenizer, pa.array(texts, pa.string()), pa.uint32(), None)
    assert counts.tolist() == [len(row) for row in ids.to_pylist()]
    return ids.to_pylist(), [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def decoded(tokenizer: Tokenizer, ids: np.ndarray) -> bytes:
    """The bytes of the ids, without the library's decoder."""
    names = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    table = pa.array([name.encode() if name in special else encoding.token_bytes(name) for name in names])
    joined = table.take(pa.array(ids))
    offsets = np.frombuffer(joined.buffers()[1], np.int32)
    return joined.buffers()[2].slice(0, int(offsets[len(ids)])).to_pybytes() if len(ids) else b""


@pytest.mark.parametrize(("pattern", "digits"), KINDS)
@given(st.lists(st.lists(st.one_of(st.sampled_from(NASTY), st.characters(exclude_categories=["Cs"])), max_size=80)
                .map("".join), max_size=4))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_ids_are_those_of_the_library(pattern: str, digits: str, texts: list[str]) -> None:
    ours, theirs = both(small(pattern, digits), texts)
    assert ours == theirs


@pytest.mark.parametrize(("pattern", "digits"), [("gpt2", "runs"), ("llama3", "three")])
def test_every_character_is_classified_as_the_library_does(pattern: str, digits: str) -> None:
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200), 0x10FFFF]
    texts = [" ".join(f"{c}a{c} {c}1'{c}" for c in map(chr, points[i : i + 500])) for i in range(0, len(points), 500)]
    ours, theirs = both(small(pattern, digits), texts)
    assert ours == theirs


@given(st.lists(st.sampled_from("abc"), max_size=400).map("".join), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_merging_is_lowest_rank_first_and_leftmost(text: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocab = {"a": 0, "b": 1, "c": 2}
    merges: list[tuple[str, str]] = []
    while len(merges) < 25:
        first, second = rng.choice(sorted(vocab), 2)
        if first + second not in vocab:
            vocab[str(first + second)] = len(vocab)
            merges.append((str(first), str(second)))
    merges = [merges[i] for i in rng.permutation(len(merges))]  # a later merge may come first: nothing is monotone
    rank = {pair: number for number, pair in enumerate(merges)}
    parts = list(text)
    while pairs := [(rank[pair], k) for k, pair in enumerate(pairwise(parts)) if pair in rank]:
        _, k = min(pairs)
        parts[k : k + 2] = ["".join(parts[k : k + 2])]
    bytes_ = np.zeros(256, np.uint32)
    bytes_[[ord("a"), ord("b"), ord("c")]] = [0, 1, 2]
    left, right, merged = (np.array([vocab[name] for name in names], np.uint32) for names in
                           ([m[0] for m in merges], [m[1] for m in merges], [m[0] + m[1] for m in merges]))  # fmt: skip
    out = np.zeros(len(text) + 1, np.uint32)
    data = np.frombuffer(text.encode() + bytes(bpe.PAD), np.uint8)
    end = bpe._merge(data, 0, len(text), bytes_, bpe.pair_table(left, right, merged), out, 0)
    assert out[:end].tolist() == [vocab[part] for part in parts]


def test_a_full_memo_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "MEMO_WORDS", 64)
    tokenizer = small("llama3", "three")
    made = encoding.Compiled(*encoding_parts(tokenizer))
    texts = [f"word{n} {'x' * (n % 120)} {n * 7919}" for n in range(2000)]
    for _ in range(2):
        values, _ = made.encode(pa.array(texts), np.uint32, None)
        assert values.tolist() == [i for found in tokenizer.encode_batch(texts) for i in found.ids]


def encoding_parts(tokenizer: Tokenizer) -> tuple:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]], pretokens.LLAMA3, pretokens.THREE


def test_threads_share_a_tokenizer(trained: Path) -> None:
    tokenizer, _ = encoding.load(trained)
    text = pa.array(make_texts(300))
    expected = encoding.encode(tokenizer, text, pa.uint16(), None)[0]
    found: list[pa.Array] = []
    threads = [threading.Thread(target=lambda: found.append(encoding.encode(tokenizer, text, pa.uint16(), None)[0]))
               for _ in range(4)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(ids.equals(expected) for ids in found)


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
    texts = [*hostile(), *HOSTILE.values()]
    tokenizer, info = encoding.load(trained)
    ids, counts = encoding.encode(tokenizer, pa.array(texts), pa.uint16(), info["eos_id"])
    for row, text in enumerate(texts):
        numbers = np.asarray(ids[row].values)
        assert len(numbers) == counts[row]
        assert numbers[-1] == 0
        assert 0 not in numbers[:-1], "a page must not forge an end of text"
        assert decoded(tokenizer, numbers[:-1]) == text.encode()
        if len(text) < 100_000:
            assert tokenizer.decode(numbers[:-1].tolist(), skip_special_tokens=False) == text


def test_fifty_megabytes(trained: Path) -> None:
    tokenizer, _ = encoding.load(trained)
    for text in (big(50_000_000), "a" * 3_000_000, " " * 3_000_000):
        ids, _ = encoding.encode(tokenizer, pa.array([text]), pa.uint16(), None)
        assert decoded(tokenizer, ids.values.to_numpy()) == text.encode()


def test_bytes_that_are_no_utf8_keep_their_bytes(trained: Path) -> None:
    """Ingestion replaces them; were one to come through, nothing is read past the end and nothing is lost."""
    tokenizer, _ = encoding.load(trained)
    raw = [b"abc\xe6\x9d", b"\xff\xfe\xf5", b"\x80\x80 a\xf0\x9f", b"\xc5"]
    text = pa.array(raw, pa.binary()).view(pa.string())
    ids, _ = encoding.encode(tokenizer, text, pa.uint16(), None)
    assert [decoded(tokenizer, np.asarray(row.values)) for row in ids] == raw


def test_sliced_arrays_and_none(trained: Path) -> None:
    tokenizer, _ = encoding.load(trained)
    texts = ["zero", "", "the fox", "", "dog"]
    whole = encoding.encode(tokenizer, pa.array(texts), pa.uint32(), 0)[0]
    part = encoding.encode(tokenizer, pa.array(texts).slice(1, 3), pa.uint32(), 0)[0]
    assert part.to_pylist() == whole.to_pylist()[1:4]
    assert encoding.encode(tokenizer, pa.array([], pa.string()), pa.uint16(), 0)[0].to_pylist() == []


def gold() -> list[dict]:
    if not SHARED.exists():
        pytest.skip("GPT-2's and GPT-NeoX's files and the gold encodings are not at hand (shared/data/tokenizers)")
    with gzip.open(SHARED / "gold_encodings.jsonl.gz", "rt") as stream:
        return [json.loads(line) for line in stream]


def test_gold_encodings_of_gpt2() -> None:
    rows = gold()
    tokenizer = training.untrained("gpt2", "runs")
    tokenizer.model = models.BPE.from_file(str(SHARED / "gpt2-vocab.json"), str(SHARED / "gpt2-merges.txt"))
    assert encoding.compiled_of(tokenizer) is not None
    ids, _ = encoding.encode(tokenizer, pa.array([row["text"] for row in rows]), pa.uint16(), None)
    assert ids.to_pylist() == [row["gpt2"] for row in rows]
    assert len(rows) == 1919


def test_gold_encodings_of_gpt_neox() -> None:
    rows = gold()
    data = gzip.decompress((SHARED / "gpt-neox-olmo-dolma-v1_5.tokenizer.json.gz").read_bytes())
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.encode_special_tokens = False  # its added tokens apply in the gold encodings
    assert encoding.compiled_of(tokenizer) is None, "its normaliser and added tokens are the library's part"
    ids, _ = encoding.encode(tokenizer, pa.array([row["text"] for row in rows]), pa.uint16(), None)
    assert ids.to_pylist() == [row["neox"] for row in rows]


ALPHABET = st.sampled_from(
    [" ", "\n", "\r", "\t", "a", "B", "é", "東", "1", "22", ".", "'s", "'", "\u00a0", "\u2028", "-"]
)


@given(st.lists(ALPHABET, max_size=60).map("".join), st.sampled_from(["gpt2", "llama3"]))
@settings(max_examples=300, deadline=None)
def test_pieces_cut_only_between_pre_tokens(text: str, pattern: str) -> None:
    tokenizer = training.untrained(pattern, "three")
    whole = [token for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    for match in encoding.LINE_BREAK.finditer(text):
        parts = [text[: match.end()], text[match.end() :]]
        assert whole == [token for part in parts for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(part)]


@given(st.text(alphabet=st.sampled_from("ab\n "), max_size=200), st.integers(2, 20))
@settings(max_examples=200, deadline=None)
def test_pieces_partition_the_text(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PIECE", size)
        found = encoding.pieces(text)
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
