"""The reader: a pure function of (seed, step), the same at any number of ranks, each sequence once an epoch."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokens import config, distinct, make_tokens

from trainer.loss import IGNORE
from trainer.order import PERIOD, Order, largest_remainder
from trainer.reader import Reader
from trainer.tokens import DataError, TokenIndex, open_tokens

LENGTHS = {"books": [30, 4, 12, 9, 21], "web": [5, 8, 40, 3, 11, 16, 2, 7], "wiki": [13, 6]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    documents = distinct(LENGTHS)
    held = {"web": documents["web"][:4], "wiki": documents["wiki"]}
    run = tmp_path_factory.mktemp("run")
    make_tokens(run / "tokens", {"train": documents, "validation": held})
    return run


def reader(run: Path, rank: int = 0, ranks: int = 1, **changes) -> Reader:
    return Reader(TokenIndex.read(run / "tokens"), config(ranks=ranks, **changes), run / ".cache", rank, ranks)


def global_batch(readers: list[Reader], step: int) -> np.ndarray:
    """[global_batch, 2, T] ids and targets in the order of the positions."""
    parts = [made.step(step) for made in readers]
    rows = [batch for turn in zip(*parts, strict=True) for batch in turn]
    return np.concatenate([np.stack([batch.ids, batch.targets], 1) for batch in rows])


@pytest.mark.parametrize("packing", ["chunk", "best_fit"])
def test_the_global_batch_is_the_same_at_any_number_of_ranks(prepared, packing):
    whole = reader(prepared, packing=packing, document_mask=True, global_batch=8, micro_batch=8)
    for ranks, micro in ((1, 1), (2, 2), (2, 4), (4, 1), (8, 1)):
        parts = [
            reader(prepared, r, ranks, packing=packing, document_mask=True, global_batch=8, micro_batch=micro)
            for r in range(ranks)
        ]
        for step in (1, 2, 7):
            assert np.array_equal(global_batch(parts, step), global_batch([whole], step))
            found = sum(int((b.targets != IGNORE).sum()) for b in whole.step(step))
            assert all(part.targets(step) == found for part in parts)
        for part in parts:
            part.close()
    whole.close()


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_each_sequence_is_seen_once_an_epoch_whatever_interrupts(data):
    """Runs that are killed at any step and go on at another number of ranks see what an unbroken run sees."""
    packing = data.draw(st.sampled_from(["chunk", "best_fit"]))
    size = data.draw(st.sampled_from([2, 4, 6]))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        make_tokens(run / "tokens", {"train": distinct(LENGTHS)})
        index = TokenIndex.read(run / "tokens")
        seen: list[bytes] = []
        step = 1
        while step * size <= 120:
            ranks = data.draw(st.sampled_from([n for n in (1, 2, 3) if size % n == 0]))
            last = step + data.draw(st.integers(0, 12))
            settings_ = config(packing=packing, global_batch=size, ranks=ranks, micro_batch=2)
            readers = [Reader(index, settings_, run / ".cache", rank, ranks) for rank in range(ranks)]
            for number in range(step, last + 1):
                seen += [row.tobytes() for row in global_batch(readers, number)]
            for made in readers:
                made.close()
            step = last + 1
        count = readers[0].size
    for epoch in range(len(seen) // count):
        assert set(Counter(seen[epoch * count : (epoch + 1) * count]).values()) == {1}
    first, second = seen[:count], seen[count : 2 * count]
    assert sorted(first) == sorted(second)
    assert first != second


def test_every_token_is_read_once_an_epoch(prepared):
    made = reader(prepared, global_batch=1, steps=1000)
    tokens = Counter()
    for step in range(1, made.size + 1):
        (batch,) = made.step(step)
        tokens.update(batch.targets[batch.targets != IGNORE].tolist())
    made.close()
    stream = [token for docs in distinct(LENGTHS).values() for doc in docs for token in doc]
    starts = [docs[0][0] for docs in distinct(LENGTHS).values()]
    assert tokens == Counter(stream) - Counter(starts)


def test_a_mix_gives_each_source_its_share_and_epochs_of_its_own(prepared):
    mix = {"books": 1.0, "web": 2.0, "wiki": 1.0}
    made = reader(prepared, mix=mix, global_batch=8, steps=1000)
    source = {token: name for name, docs in distinct(LENGTHS).items() for doc in docs for token in doc[:-1]}
    found = Counter()
    orders: dict[str, list[int]] = {name: [] for name in mix}
    for step in range(1, 31):
        names = [source[max(row)] for batch in made.step(step) for row in batch.ids.tolist()]
        assert Counter(names) == {"books": 2, "web": 4, "wiki": 2}
        found.update(names)
        for number in made._numbers(step).tolist():
            name = next(name for name in mix if number < made.packing.first[list(mix).index(name) + 1])
            orders[name].append(number)
    epochs = made.epochs(30)
    made.close()
    assert epochs == {name: found[name] / made.sizes[name] for name in mix}
    for name, numbers in orders.items():
        size = made.sizes[name]
        for epoch in range(len(numbers) // size):
            assert len(set(numbers[epoch * size : (epoch + 1) * size])) == size, (name, epoch)
        assert numbers[:size] != numbers[size : 2 * size]


@given(st.integers(1, 3000), st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_an_epoch_is_a_permutation(size, seed):
    order = Order.make({"web": size}, {}, seed)
    assert np.array_equal(np.sort(order.at(np.arange(size))), np.arange(size))
    some = np.array([size - 1, 3 * size, 0])
    assert order.at(some).tolist() == [order.at(np.array([p]))[0] for p in some]


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_no_source_runs_ahead_of_its_share(shares):
    names = [f"s{i:02}" for i in range(len(shares))]
    order = Order.make(dict.fromkeys(names, 7), dict(zip(names, shares, strict=True)), 1)
    assert order.counts.tolist() == largest_remainder(np.array(shares), PERIOD).tolist()
    exact = np.outer(np.arange(1, PERIOD + 1), np.array(shares) / sum(shares))
    given_ = np.stack([np.cumsum(order.chosen == i) for i in range(len(names))], 1)
    assert np.abs(given_ - exact).max() < len(names)
    for positions in (0, 1, 1000, PERIOD, 3 * PERIOD + 17):
        inside = np.arange(positions) % PERIOD
        expected = np.bincount(order.chosen[inside], minlength=len(names)).tolist()
        assert list(order.taken(positions).values()) == expected


def test_seeds_and_sources_have_orders_of_their_own():
    where = np.arange(50)
    plain = Order.make({"web": 50}, {}, 1).at(where)
    assert not np.array_equal(plain, Order.make({"web": 50}, {}, 2).at(where))
    two = Order.make({"a": 50, "b": 50}, {"a": 1, "b": 1}, 1)
    both = two.at(np.arange(100))
    first, second = both[both < 50], both[both >= 50] - 50
    assert not np.array_equal(first, second)
    alone = Order.make({"a": 50, "b": 50}, {"a": 1, "b": 0}, 1).at(where)
    assert np.array_equal(alone, first)  # a source's order does not depend on the others


def test_steps_are_made_ahead_and_waiting_is_counted(prepared):
    made = reader(prepared, steps=20)
    made.step(1)
    time.sleep(0.2)
    before = made.wait_s
    made.step(2)
    assert made.wait_s - before < 0.1
    made.step(9)  # another place: what was made ahead is dropped
    made.step(20)
    assert not made._ahead
    made.close()


def damaged(folder: Path, **index) -> Path:
    make_tokens(folder / "tokens", {"train": distinct(LENGTHS)}, vocab=index.pop("vocab", 60_000))
    path = folder / "tokens" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


def test_bad_shards_are_named_before_the_first_step(tmp_path):
    missing = damaged(tmp_path / "missing")
    (missing / "tokens" / "train-web-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train-web-00001\.parquet: cannot read the shard: No such file"):
        reader(missing)
    short = damaged(tmp_path / "short")
    for name in ("train-web-00001.parquet", "train-books-00000.parquet"):
        path = short / "tokens" / name
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"train-books-00000\.parquet: expected \d+ bytes, found \d+; and 1 more"):
        reader(short)
    changed = damaged(tmp_path / "changed")
    path = changed / "tokens" / "train-wiki-00000.parquet"
    data = bytearray(path.read_bytes())
    data[8] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-wiki-00000\.parquet: expected sha256"):
        reader(changed)
    assert not list((changed / ".cache").glob("tokens-*.bin*"))
    with pytest.raises(DataError, match=r"train-.*: expected ids below 50, the vocabulary in the index, found"):
        reader(damaged(tmp_path / "vocabulary", vocab=50))


def test_shards_of_another_tokenizer_are_refused(tmp_path):
    run = damaged(tmp_path / "run")
    (run / "tokenizer").mkdir()
    (run / "tokenizer" / "artifact.json").write_text(json.dumps({"fingerprint": "e" * 64}))
    with pytest.raises(DataError, match=r"made with tokenizer ffff.*artifact\.json is eeee.*run the pipeline again"):
        TokenIndex.read(run / "tokens")
    (run / "tokenizer" / "artifact.json").write_text(json.dumps({"fingerprint": "f" * 64}))
    TokenIndex.read(run / "tokens")
    (run / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: expected SHA-256 ffff.*found 4413.*the file was replaced"):
        TokenIndex.read(run / "tokens")


def test_a_file_in_the_cache_is_believed_only_whole(tmp_path):
    run = damaged(tmp_path)
    index = TokenIndex.read(run / "tokens")
    tokens, _ = open_tokens(index, "train", run / ".cache")
    expected, (path,) = tokens.copy(), (run / ".cache").glob("tokens-*.bin")
    before = path.stat().st_mtime_ns
    open_tokens(index, "train", run / ".cache")
    assert path.stat().st_mtime_ns == before  # verified once
    path.write_bytes(path.read_bytes()[:-2])
    again, _ = open_tokens(index, "train", run / ".cache")
    assert np.array_equal(again, expected)


def test_what_cannot_be_dealt_out_is_refused(prepared):
    with pytest.raises(DataError, match=r"at least global_batch=64 sequences of seq_len=8, found \d+ .*train\.seq_len"):
        reader(prepared, global_batch=64)
    with pytest.raises(DataError, match=r"source of the shards \(books, web, wiki\).*unknown: code; not named: wiki"):
        reader(prepared, mix={"books": 1, "web": 1, "code": 1})
    with pytest.raises(DataError, match=r"at least 1/65536 for 'wiki'"):
        reader(prepared, mix={"books": 1, "web": 1, "wiki": 1e-7})
    with pytest.raises(DataError, match=r"data rank below the configuration's 1, found 1 of 2"):
        Reader(TokenIndex.read(prepared / "tokens"), config(), prepared / ".cache", 1, 2)


def test_index_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"index\.json: not found"):
        TokenIndex.read(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"expected format 'tamis-tokens/1', found 'other'"):
        TokenIndex.read(tmp_path)
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"index\.json: expected JSON, found maximum recursion"):
        TokenIndex.read(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("shards.0.rows", -1, "shards.0.rows: Input should be greater than or equal to 0"),
        ("shards.0.tokens", "5", "shards.0.tokens: Input should be a valid integer"),
        ("shards.0.bytes", None, "shards.0.bytes: Input should be a valid integer"),
        ("shards.0.path", "../x", "expected shard paths inside the folder, found '../x'"),
        ("shards.0.path", "/etc/passwd", "expected shard paths inside the folder"),
        ("shards.0.path", "a\0b", "expected shard paths inside the folder"),
        ("shards.0.path", ".", "expected shard paths inside the folder"),
        ("shards.0.source", 7, "shards.0.source: Input should be a valid string"),
        ("shards.0.sha256", None, "shards.0.sha256: Input should be a valid string"),
        ("shards.0", {"path": "a.parquet"}, "shards.0.rows: Field required"),
        ("shards.1.path", "train-books-00000.parquet", "shards: expected each path once"),
        ("shards", None, "shards: Input should be a valid tuple"),
        ("sources", {}, "expected the sums of its shards"),
        ("sources.web.train.tokens", 5, "sources.web.train: expected the sums of its shards"),
        ("dtype", "int8", "dtype: Input should be 'uint16' or 'uint32'"),
        ("tokenizer.vocab_size", "x", "tokenizer.vocab_size: Input should be a valid integer"),
        ("tokenizer.vocab_size", 10**12, "tokenizer.vocab_size: Input should be less than"),
        ("tokenizer.eos_id", 10**6, "eos_id 1000000 is not below vocab_size 60000"),
    ],
)
def test_a_hostile_index_is_one_error_that_says_where(prepared, tmp_path, place, value, words):
    raw = json.loads((prepared / "tokens" / "index.json").read_text())
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    inside = raw
    for key in way:
        inside = inside[key]
    inside[last] = value
    (tmp_path / "index.json").write_text(json.dumps(raw))
    with pytest.raises(DataError) as error:
        TokenIndex.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'index.json'}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_no_size_of_the_index_is_believed_before_a_file_agrees(tmp_path):
    """10^18 documents would be 8 exabytes of starts."""
    run = damaged(tmp_path)
    path = run / "tokens" / "index.json"
    raw = json.loads(path.read_text())
    entry = next(shard for shard in raw["shards"] if shard["source"] == "wiki")
    for sums in (entry, raw["sources"]["wiki"]["train"]):
        sums["rows"] += 10**18
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"train-wiki-0000\d\.parquet: expected 1000000000000000001 documents with"):
        reader(run)


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint32()])
def test_ids_of_another_type_are_refused(tmp_path, kind):
    """A negative id would be cut to some other one."""
    run = damaged(tmp_path)
    path = run / "tokens" / "train-wiki-00000.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("input_ids")
    pq.write_table(table.set_column(at, "input_ids", table["input_ids"].cast(pa.list_(kind))), path)
    raw = json.loads((run / "tokens" / "index.json").read_text())
    entry = next(shard for shard in raw["shards"] if shard["path"] == path.name)
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (run / "tokens" / "index.json").write_text(json.dumps(raw))
    with pytest.raises(
        DataError, match=r"train-wiki-00000\.parquet: expected input_ids as lists of uint16, found list"
    ):
        reader(run)
