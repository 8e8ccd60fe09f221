"""From a step and a row back to documents: what lineage says is what the model read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_tokens import EOS, config, distinct, make_tokens, name_of
from typer.testing import CliRunner

from pipeline.cli import app
from trainer.lineage import Lineage, documents_of_step
from trainer.reader import Reader
from trainer.tokens import DataError, TokenIndex

LENGTHS = {"books": [30, 4, 12, 9, 21, 1], "web": [5, 8, 0, 40, 3, 11, 16, 2, 7]}
SETTINGS = [
    {},
    {"packing": "best_fit"},
    {"packing": "best_fit", "document_mask": True, "mix": {"books": 1, "web": 3}},
    {"mix": {"books": 1, "web": 3}, "ranks": 2, "micro_batch": 2, "global_batch": 8},
]


@pytest.fixture
def run(tmp_path) -> Path:
    make_tokens(tmp_path / "tokens", {"train": distinct(LENGTHS)})
    return tmp_path


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("changes", SETTINGS)
def test_the_documents_of_a_row_hold_its_tokens(run, changes, cached):
    settings, index = config(**changes), TokenIndex.read(run / "tokens")
    readers = [Reader(index, settings, run / "reads", r, settings.data_ranks) for r in range(settings.data_ranks)]
    documents = {name_of(source, i): ids for source, docs in distinct(LENGTHS).items() for i, ids in enumerate(docs)}
    lineage = Lineage.open(index, settings, run / "reads" if cached else None)
    for step in (1, 2, 19):
        batches = [made.step(step) for made in readers]
        found = lineage.documents(step)
        rows = {row: [span for span in found if span["row"] == row] for row in range(settings.global_batch)}
        for row, spans in rows.items():
            rank, micro = spans[0]["rank"], spans[0]["micro_batch"]
            ids = batches[rank][micro].ids[row % settings.rank_micro_batch].tolist()
            made: list[int] = []
            for span in spans:
                assert span["slot"] == len(made)
                made += documents[span["doc_id"]][span["first"] : span["first"] + span["tokens"]]
                assert span["shard"].startswith(f"train-{span['source']}-")
            assert ids == made + [EOS] * (settings.seq_len - len(made))
        some = lineage.documents(step, [2, 1])
        assert some == rows[2] + rows[1]
    for reader in readers:
        reader.close()
    assert documents_of_step(index, settings, 2) == lineage.documents(2)
    assert not (run / ".cache").exists()


def test_steps_and_rows_that_are_not_there(run):
    lineage = Lineage.open(TokenIndex.read(run / "tokens"), config())
    for step, rows in ((0, None), (1, [4])):
        with pytest.raises(DataError, match="rows from 0 to 3"):
            lineage.documents(step, rows)


def test_the_command_names_urls(run):
    ids = {name_of(source, i): source for source, lengths in LENGTHS.items() for i in range(len(lengths))}
    (run / "ledger").mkdir()
    table = pa.table({
        "doc_id": list(ids), "source": list(ids.values()), "verdict": ["kept"] * len(ids),
        "url": [f"http://{source}.example/{doc[:4]}" for doc, source in ids.items()],
        "language": ["en"] * len(ids), "file": ["crawl.warc.gz"] * len(ids),
        "record_offset": np.arange(len(ids)),
    })  # fmt: skip
    pq.write_table(table, run / "ledger" / "part-00000.parquet")
    settings = config(ranks=2, micro_batch=1)
    (run / "training.json").write_text(settings.model_dump_json())
    shell = CliRunner()
    whole = shell.invoke(app, ["batch", str(run), "3", "--json"])
    assert whole.exit_code == 0, whole.output
    found = [json.loads(line) for line in whole.stdout.splitlines()]
    assert [{k: v for k, v in span.items() if k not in ("url", "language", "file", "record_offset")}
            for span in found] == documents_of_step(TokenIndex.read(run / "tokens"), settings, 3)  # fmt: skip
    assert all(span["url"] == f"http://{span['source']}.example/{span['doc_id'][:4]}" for span in found)
    mine = shell.invoke(app, ["batch", str(run), "3", "--rank", "1", "--row", "1", "--json"])
    rows = [json.loads(line) for line in mine.stdout.splitlines()]
    assert rows == [span for span in found if span["row"] == 3]
    assert {span["rank"] for span in rows} == {1}
    shown = shell.invoke(app, ["batch", str(run), "3", "--row", "0"], env={"COLUMNS": "200"})
    assert found[0]["url"] in shown.output
    narrow = shell.invoke(app, ["batch", str(run), "3", "--row", "0"], env={"COLUMNS": "50"})
    assert "…" not in narrow.output  # a name is folded, never cut
    wrong = {"a step up to 50": ["99"], "below 2": ["1", "--rank", "2"], "below 4": ["1", "--row", "9"]}
    for message, arguments in wrong.items():
        failed = shell.invoke(app, ["batch", str(run), *arguments])
        assert message in str(failed.exception)
    (run / "tokens" / f"{found[0]['shard']}").unlink()
    failed = shell.invoke(app, ["batch", str(run), "3"])
    assert f"{found[0]['shard']}: cannot read" in str(failed.exception)
