"""Token shards of a run: one size for each source and split, the same bytes however the work was cut."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import toy  # noqa: F401 - registers the source format
from rich.console import Console

import stages
from pipeline import manifest as manifests
from pipeline import run as driver
from pipeline import shards
from pipeline.commit import PartWriter
from pipeline.errors import ConservationError
from pipeline.executor import InlineExecutor
from pipeline.plan import Plan
from pipeline.progress import Reporter
from stages import tokenize_shards

stages.load_all()
TARGET, GROUP = 1000, 300
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch):
    monkeypatch.setattr(tokenize_shards, "ROW_GROUP", GROUP)


def lines(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{n} " + " ".join(rng.choice(WORDS, int(rng.integers(1, 60)))) for n in range(count)]


def manifest(folder: Path, slice_bytes: int, validation: float = 0.2) -> manifests.Manifest:
    for source, count in (("books", 60), ("web-1", 90)):
        for number in range(2):
            path = folder / "in" / source / f"docs-{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text("".join(line + "\n" for line in lines(count, number + count)))
    body = {
        "name": "shards",
        "sources": [{"name": name, "format": "toy_lines", "paths": f"{folder}/in/{name}/*.txt",
                     "slice_bytes": slice_bytes} for name in ("books", "web-1")],
        "stages": [{"train_tokenizer": {"vocab_size": 384, "max_host_share": 1.0}},
                   {"tokenize": {"validation_fraction": validation, "shard_tokens": TARGET}}],
    }  # fmt: skip
    path = folder / "m.yaml"
    path.write_text(json.dumps(body))  # JSON is YAML
    return manifests.load(path)


def go(folder: Path, run_dir: Path, slice_bytes: int = 900) -> dict:
    driver.run(manifest(folder, slice_bytes), run_dir, InlineExecutor, Reporter(Console(quiet=True)))
    return json.loads((run_dir / "tokens" / "index.json").read_text())


def contents(run_dir: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (run_dir / "tokens").iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_shards, "ROW_GROUP", GROUP)
        go(folder, folder / "run")
    return folder


def test_shards_have_the_target_size_and_their_sums(made):
    index = json.loads((made / "run" / "tokens" / "index.json").read_text())
    assert {shard["source"] for shard in index["shards"]} == {"books", "web-1"}
    sizes: dict[tuple[str, str], list[int]] = {}
    for shard in index["shards"]:
        path = made / "run" / "tokens" / shard["path"]
        assert path.name.startswith(f"{shard['split']}-{shard['source']}-")
        table = pq.read_table(path)
        assert (table.num_rows, path.stat().st_size) == (shard["rows"], shard["bytes"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        n = table["n"].to_numpy()
        assert n.tolist() == [len(row) for row in table["input_ids"].to_pylist()]
        assert (int(n.sum()), int(table["n_bytes"].to_numpy().sum())) == (shard["tokens"], shard["text_bytes"])
        sizes.setdefault((shard["split"], shard["source"]), []).append(shard["tokens"])
        groups = pq.ParquetFile(path)
        held = [int(groups.read_row_group(g)["n"].to_numpy().sum()) for g in range(groups.num_row_groups)]
        assert all(abs(tokens - GROUP) < 200 for tokens in held[:-1])
    for counts in sizes.values():
        assert all(abs(tokens - TARGET) < 200 for tokens in counts[:-1])
    assert len(sizes["train", "web-1"]) > 3
    books = [shard for shard in index["shards"] if shard["source"] == "books"]
    for total, entries in ((index["totals"], index["shards"]), (index["sources"]["books"], books)):
        for split, sums in total.items():
            for key, value in sums.items():
                assert value == sum(shard[key] for shard in entries if shard["split"] == split)


def test_rows_are_all_kept_documents_in_corpus_order(made):
    with duckdb.connect() as db:
        expected = db.execute(
            "select source, doc_id from read_parquet(?) where verdict = 'kept' order by source, file, record_offset",
            [f"{made}/run/ledger/*.parquet"],
        ).fetchall()
    index = json.loads((made / "run" / "tokens" / "index.json").read_text())
    found: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    for shard in index["shards"]:
        ids = pq.read_table(made / "run" / "tokens" / shard["path"])["doc_id"].to_pylist()
        found[shard["split"]] += [(shard["source"], doc) for doc in ids]
    order = {document: place for place, document in enumerate(expected)}
    for rows in found.values():
        assert [order[row] for row in rows] == sorted(order[row] for row in rows)
    assert sorted(found["train"] + found["validation"]) == sorted(expected)


@pytest.mark.parametrize("slice_bytes", [200, 10_000])
def test_the_bytes_do_not_depend_on_slices(made, slice_bytes, tmp_path):
    go(made, tmp_path / "run", slice_bytes)
    assert contents(tmp_path / "run") == contents(made / "run")


def test_an_interrupted_join_goes_on(made, tmp_path, monkeypatch):
    write, count = PartWriter.close, 0

    def fail(self):
        nonlocal count
        if "shards@" in str(self.path):
            count += 1
            if count > 3:
                raise OSError(28, "No space left on device")
        return write(self)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "close", fail)
        with pytest.raises(OSError, match="No space left"):
            go(made, tmp_path / "run")
    assert not (tmp_path / "run" / "tokens" / "index.json").exists()
    folder = next((tmp_path / "run" / "stages").glob("tokenize@*/shards@*"))
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "commits").glob("*.json")}
    assert done
    (folder / "part-0123456789abcdef-00000000.parquet").write_bytes(b"torn")
    go(made, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(made / "run")
    assert all((folder / "commits" / name).stat().st_mtime_ns == at for name, at in done.items())
    files = [json.loads(path.read_text())["files"] for path in (folder / "commits").glob("*.json")]
    assert {path.name for path in folder.glob("part-*")} == {file["path"] for group in files for file in group}


def test_appended_documents_leave_earlier_shards_as_they_are(tmp_path):
    manifest(tmp_path, 900)
    before = go(tmp_path, tmp_path / "run")
    plan = Plan.from_json(json.loads((tmp_path / "run" / "plan.json").read_text()))
    node = next(node for node in plan.nodes if node.type == "tokenize")
    shorter = Plan(plan.name, plan.seed, plan.sources, plan.nodes, plan.slices[:-3], plan.phases)
    found = shards.join(tmp_path / "run", shorter, node)
    listed = {shard["path"]: shard["sha256"] for shard in before["shards"]}
    same = [name for name in found if listed[name] == found[name]["sha256"]]
    assert len(found) - len(same) <= 2  # the last of a source's train and validation
    assert len(same) > 5


def test_lost_rows_are_noticed(made, tmp_path, monkeypatch):
    real = shards._rows
    monkeypatch.setattr(shards, "_rows", lambda *a: ((rows.slice(1), at[1:]) for rows, at in real(*a) if len(at) > 1))
    with pytest.raises(ConservationError, match=r"stage tokenize: expected 300 rows in the shards, found"):
        go(made, tmp_path / "run")


def test_pyarrow_duckdb_and_datasets_read_them(made, tmp_path):
    folder = made / "run" / "tokens"
    index = json.loads((folder / "index.json").read_text())
    total = index["totals"]["train"]
    files = sorted(str(path) for path in folder.glob("train-*.parquet"))
    import pyarrow.dataset as ds

    assert ds.dataset(files).count_rows() == total["rows"]
    with duckdb.connect() as db:
        sums = db.execute("select count(*), sum(n), sum(len(input_ids)) from read_parquet(?)", [files]).fetchone()
    assert sums == (total["rows"], total["tokens"], total["tokens"])
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=str(tmp_path))
    assert {name: part.num_rows for name, part in loaded.items()} == {
        name: sums["rows"] for name, sums in index["totals"].items()
    }
    assert sum(loaded["train"]["n"]) == total["tokens"]
    streamed = datasets.load_dataset("parquet", data_dir=str(folder), split="train", streaming=True)
    assert len(next(iter(streamed))["input_ids"]) == pq.read_table(files[0])["n"][0].as_py()
