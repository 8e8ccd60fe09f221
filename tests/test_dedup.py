"""Exact and near dedup: definitions against slow Python, independence of order, degenerate input, gold pairs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch
from stages import exact_dedup, near_dedup
from stages.exact_dedup import ExactDedup
from stages.kernels import chars, clusters, content_hash, minhash
from stages.near_dedup import NearDedup

SHARED = Path(__file__).resolve().parents[2] / "shared"


class FakeCorpus:
    """A corpus in memory, with the sketch of each batch of `size` documents."""

    def __init__(self, ids, texts, sketch, params, schema, size=256):
        self.num_docs, self.text = len(ids), pa.array(texts, pa.string())
        self.columns = {"doc_id": pa.chunked_array([pa.array(ids, pa.string())])}
        parts = []
        for start in range(0, max(len(ids), 1), size):
            part = self.text.slice(start, size)
            parts.append(pa.record_batch(sketch(Batch({"text": part}, len(part)), params, None), schema=schema))
        self.columns |= {name: pa.Table.from_batches(parts)[name] for name in schema.names}

    def column(self, name):
        return self.columns[name]

    def take(self, name, rows):
        assert name == "text"
        assert np.all(np.diff(rows) > 0)
        return self.text.take(pa.array(rows))


NEAR_SCHEMA = pa.schema(
    [("keys", pa.list_(pa.uint64())), ("words_hash", pa.uint64()), ("words", pa.int32()), ("text_bytes", pa.int32())]
)
EXACT_SCHEMA = pa.schema([("hash_hi", pa.uint64()), ("hash_lo", pa.uint64()), ("length", pa.int32())])


def run_near(ids, texts, size=256, **params):
    given_params = NearDedup(**params)
    corpus = FakeCorpus(ids, texts, near_dedup.sketch, given_params, NEAR_SCHEMA, size)
    return near_dedup.near_dedup(corpus, given_params, None)


def run_exact(ids, texts, size=256):
    corpus = FakeCorpus(ids, texts, exact_dedup.sketch, ExactDedup(), EXACT_SCHEMA, size)
    return exact_dedup.exact_dedup(corpus, ExactDedup(), None)


def fates(ids, out):
    """{id: (dropped, canonical, score)}, to compare runs of different order."""
    canonical, score = out.columns["canonical_id"].to_pylist(), out.score.to_pylist()
    assert out.columns["cluster_id"].to_pylist() == canonical
    return dict(zip(ids, zip(out.drop.to_pylist(), canonical, score, strict=True), strict=True))


def python_fold(text):
    return "".join(c.casefold() if len(c.casefold()) == 1 else c.lower()[0] for c in text)


def python_words(text):
    return [python_fold(word) for word in re.findall(r"\w+", text)]


def python_jaccard(left, right, n=5):
    sets = []
    for text in (left, right):
        words = python_words(text)
        sets.append({tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


SPACED = st.text(st.characters(max_codepoint=0xDFF) | st.sampled_from("  .\n_ΣσςßİЖ١é\u0301𝒜🎉\u200b"), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.lists(SPACED, min_size=1, max_size=4))
def test_words_and_shingle_sets_match_python(texts):
    spans = minhash.text_spans(pa.array(["skipped", *texts]).slice(1))
    table = minhash.word_table()
    a, b = minhash.permutations(6)
    _, _, words = minhash.signatures(*spans, table, 3, a, b, 2, 10**6)
    assert words.tolist() == [len(python_words(text)) for text in texts]
    hashes, first, size = minhash.shingle_sets(*spans, table, 3, words)
    for i in range(1, len(texts)):
        value = clusters.jaccard(hashes, first[0], size[0], first[i], size[i], 0.0)
        if python_words(texts[0]) and python_words(texts[i]):
            assert value == python_jaccard(texts[0], texts[i], 3)


def test_scripts_without_spaces_count_each_code_point():
    spans = minhash.text_spans(pa.array(["日本語 abc漢字def ไทย", None, ""]))
    a, b = minhash.permutations(2)
    assert minhash.signatures(*spans, minhash.word_table(), 5, a, b, 1, 100)[2].tolist() == [10, 0, 0]


def test_signature_is_the_minimum_of_each_permutation():
    text = " ".join(f"w{i % 37}" for i in range(1000))
    data, starts, ends = minhash.text_spans(pa.array([text]))
    table, (a, b) = minhash.word_table(), minhash.permutations(8)
    keys, _, words = minhash.signatures(data, starts, ends, table, 5, a, b, 8, 10**6)
    hashes, _, size = minhash.shingle_sets(data, starts, ends, table, 5, words)
    with np.errstate(over="ignore"):
        minima = (a[:, None] * hashes[None, : size[0]] + b[:, None]).min(axis=1)
        start = np.arange(1, 9, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        assert np.array_equal(keys[0], minhash.mix.py_func(start + minima.astype(np.uint64)))


def test_murmur3_golden_vectors():
    for text, digest in (
        (b"", (0, 0)),
        (b"hello", (0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19)),
        (b"The quick brown fox jumps over the lazy dog", (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)),
    ):
        assert content_hash.murmur3(np.frombuffer(text or b"\0", np.uint8), len(text)) == digest


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | SPACED)
def test_normalised_text_matches_python(text):
    data, starts, ends = minhash.text_spans(pa.array(["x" + text]))
    out = np.zeros(len(data) * 3 // 2 + 8, np.uint8)
    size = content_hash.normalise(data, starts[0] + 1, ends[0], minhash.fold_table(), *chars.tables(), out)
    assert out[:size].tobytes().decode() == python_fold(" ".join(text.split()))


def test_exact_keeps_the_smallest_id():
    ids = ["d", "b", "c", "a", "e", "f", "g"]
    texts = ["One  Two", "one two\n", "one, two", "three", None, None, " ONE\ttwo "]
    out = run_exact(ids, texts, size=2)
    assert out.drop.to_pylist() == [True, False, False, False, False, False, True]
    assert out.columns["canonical_id"].to_pylist() == ["b", "b", None, None, None, None, "b"]
    assert out.reason.to_pylist() == ["exact_duplicate"] + [None] * 5 + ["exact_duplicate"]
    assert out.score.null_count == len(ids)


WORDS = [f"w{i}" for i in range(400)]


def noisy_texts(rng, bases=12, copies=8, words=120):
    """Texts in families of edited copies, so that pairs of every similarity occur."""
    texts = []
    for _ in range(bases):
        base = rng.choice(WORDS, words).tolist()
        for _ in range(copies):
            edited = base[: rng.integers(words * 3 // 4, words)]
            for place in rng.integers(0, len(edited), rng.integers(0, 6)):
                edited[place] = str(rng.choice(WORDS))
            texts.append(" ".join(edited))
    return [*texts, "a short one", "A short, one!", "a short two", "", "...", "", *texts[:3]]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_partition_gives_the_same_answer(seed):
    rng = np.random.default_rng(seed)
    texts = noisy_texts(rng)
    ids = [f"{value:032x}" for value in rng.permutation(len(texts))]
    expected = fates(ids, run_near(ids, texts))
    exact = fates(ids, run_exact(ids, texts))
    assert any(dropped for dropped, _, _ in expected.values())
    for size in (7, 256):
        order = rng.permutation(len(texts))
        shuffled_ids, shuffled = [ids[i] for i in order], [texts[i] for i in order]
        assert fates(shuffled_ids, run_near(shuffled_ids, shuffled, size)) == expected
        assert fates(shuffled_ids, run_exact(shuffled_ids, shuffled, size)) == exact


def test_every_removed_document_is_similar_to_one_that_stays():
    texts = noisy_texts(np.random.default_rng(5))
    ids = [f"{i:04d}" for i in range(len(texts))]
    out = run_near(ids, texts)
    result = fates(ids, out)
    for i, (dropped, canonical, score) in enumerate(result.values()):
        if dropped:
            assert score == python_jaccard(texts[i], texts[int(canonical)])
            assert score >= 0.75
            assert result[canonical][:2] == (False, canonical)
            key = [(-len(python_words(texts[j])), ids[j]) for j in (int(canonical), i)]
            assert key[0] < key[1]
    assert [result[i][0] for i in ids if not python_words(texts[int(i)])] == [False] * 3
    short = ids[texts.index("a short one")]
    assert result[ids[texts.index("A short, one!")]] == (True, short, 1.0)
    assert result[ids[texts.index("a short two")]][0] is False
    assert pc.all(pc.equal(out.threshold.drop_null(), 0.75)).as_py()


def test_a_chain_does_not_join_its_ends():
    words = [f"x{i}" for i in range(200)]
    texts = [" ".join(words[shift : shift + 150]) for shift in (0, 14, 28, 42)]
    out = run_near(list("abcd"), texts, bands=50, rows=2)
    assert out.columns["canonical_id"].to_pylist() == ["a", "a", "c", "c"]
    assert out.drop.to_pylist() == [False, True, False, True]


def test_degenerate_corpora():
    assert run_near([], []).drop.to_pylist() == []
    assert run_exact([], []).drop.to_pylist() == []
    assert run_near(["a"], ["one document of a few words"]).columns["cluster_id"].to_pylist() == [None]
    copies = 30_000
    ids = [f"{i:08d}" for i in range(copies)]
    text = " ".join(WORDS[:60])
    for out in (run_near(ids, [text] * copies), run_exact(ids, [text] * copies)):
        assert out.drop.to_pylist() == [False] + [True] * (copies - 1)
    one_word_apart = [f"{text} {text} {i}" for i in range(copies)]
    assert pc.sum(run_near(ids, one_word_apart).drop).as_py() == copies - 1


def test_a_very_long_document_is_seen_whole_by_the_jaccard():
    start = " ".join(f"s{i}" for i in range(100_000))
    long = start + " " + " ".join(f"t{i}" for i in range(1_000_000))
    out = run_near(["a", "b", "c"], [long, start, start + " end"])
    assert out.columns["canonical_id"].to_pylist() == [None, "c", "c"]


def test_strangers_in_one_bucket_cost_a_bounded_number_of_comparisons():
    n, leaders = 500, 3
    buckets = np.zeros((n, 1), np.int64)
    hashes = np.arange(n * 10, dtype=np.uint32)
    first, size = np.arange(n) * 10, np.full(n, 10)
    hashes[first[400] : first[400] + 10] = hashes[first[1] : first[1] + 10]
    hashes[first[401] : first[401] + 10] = hashes[first[50] : first[50] + 10]
    canonical, _ = clusters.choose(buckets, 1, hashes, first, size, 0.75, leaders)
    assert (canonical[400], canonical[401]) == (1, 401)


def test_variants_fill_what_is_not_given():
    assert (NearDedup(variant="redpajama_v2").ngram, NearDedup(variant="redpajama_v2").rows) == (13, 13)
    assert NearDedup(variant="fineweb", threshold=0.8).threshold == 0.8
    assert NearDedup().threshold == 0.75


def test_gold_pairs():
    folder = SHARED / "data/neardup"
    if not folder.exists():
        pytest.skip(f"no gold pairs in {folder}")
    docs, pairs = pq.read_table(folder / "docs.parquet"), pq.read_table(folder / "pairs.parquet")
    docs = docs.filter(pc.not_equal(docs["lang"], "tr"))  # "İ".lower() has two code points: other words there
    ids = docs["doc_id"].to_pylist()[:8000]
    params = NearDedup()
    corpus = FakeCorpus(ids, docs["text"].to_pylist()[:8000], near_dedup.sketch, params, NEAR_SCHEMA)
    number = {name: i for i, name in enumerate(ids)}
    gold = [
        (number[row["a"]], number[row["b"]], row["j_w5"])
        for row in pairs.select(["a", "b", "j_w5"]).to_pylist()
        if row["a"] in number and row["b"] in number
    ]
    a, b, j = (np.array(column) for column in zip(*gold, strict=True))
    keys = corpus.column("keys").combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    proposed = (keys[a] == keys[b]).any(axis=1)
    words = corpus.column("words").to_numpy()
    hashes, first, size = minhash.shingle_sets(*minhash.text_spans(corpus.text), minhash.word_table(), 5, words)
    true = np.array(
        [clusters.jaccard(hashes, first[x], size[x], first[y], size[y], 0) for x, y in zip(a, b, strict=True)]
    )
    found = proposed & (true >= params.threshold)
    assert (j >= 0.8).sum() > 1000
    assert (j[found] >= params.threshold - 0.005).mean() >= 0.99
    assert found[j >= 0.8].mean() >= 0.95

    out = near_dedup.near_dedup(corpus, params, None)
    dropped = np.asarray(out.drop)
    similar = {(x, y): value for x, y, value in gold}
    canonical = out.columns["canonical_id"].to_pylist()
    scores = out.score.to_pylist()
    for i in np.flatnonzero(dropped).tolist():
        other = number[canonical[i]]
        assert similar.get((i, other), similar.get((other, i), 0)) == pytest.approx(scores[i], abs=0.02)
    assert (~dropped[a] & ~dropped[b])[j >= 0.8].mean() < 0.01
