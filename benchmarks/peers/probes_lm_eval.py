"""lm-evaluation-harness on a Hugging Face folder and local items: what its own code scores for each item.

In: {"model": folder, "tasks": {task: {"file": JSONL in Hugging Face layout, "limit": n or null}}, "threads": n}.
Out: {task: {"metrics": {...}, "cpu_seconds": of the evaluation, "items": [{"doc_id", "logprobs", "acc", "acc_norm"},
...]}, "version": ...}.
The tasks are the harness's own YAML files with the data set replaced by the local file; CommonsenseQA, which the
harness asks by letters, is given as a cloze task. Nothing is downloaded.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import torch
import yaml
from lm_eval import evaluator, tasks
from lm_eval.models.huggingface import HFLM

OWN = Path(tasks.__file__).parent
FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml", "openbookqa": "openbookqa/openbookqa.yaml", "piqa": "piqa/piqa.yaml",
    "arc_easy": "arc/arc_easy.yaml", "arc_challenge": "arc/arc_easy.yaml",
}  # fmt: skip
METRICS = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
CLOZE = {
    "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}", "metric_list": METRICS,
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def own_task(name: str, file: str, folder: Path) -> None:
    """The harness's task as `local_<name>`, its data a local file; its functions are copied beside it."""
    raw = CLOZE if name == "commonsense_qa" else yaml.load((OWN / FILES[name]).read_text(), _Loader)
    drop = ("dataset_name", "training_split", "validation_split", "test_split", "tag", "fewshot_split")
    task = {key: value for key, value in raw.items() if key not in drop}
    task |= {"task": f"local_{name}", "dataset_path": "json", "test_split": "test", "num_fewshot": 0}
    task["dataset_kwargs"] = {"data_files": {"test": file}}
    text = yaml.safe_dump(task, allow_unicode=True)
    if name == "hellaswag":
        (folder / "utils.py").write_text((OWN / "hellaswag" / "utils.py").read_text())
        text = text.replace("'!function utils.process_docs'", "!function utils.process_docs")
    (folder / f"{name}.yaml").write_text(text)


def main() -> None:
    given = json.load(sys.stdin)
    torch.set_num_threads(given["threads"])
    answer = {"version": importlib.metadata.version("lm_eval")}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch) / "tasks"
        folder.mkdir()
        for name, task in given["tasks"].items():
            own_task(name, task["file"], folder)
        model = HFLM(pretrained=given["model"], device="cpu", dtype="float32", batch_size=8)
        manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
        for name, task in given["tasks"].items():
            began = time.process_time()
            found = evaluator.simple_evaluate(
                model, tasks=[f"local_{name}"], task_manager=manager, limit=task["limit"], log_samples=True,
                bootstrap_iters=0, cache_requests=False,
            )  # fmt: skip
            samples = sorted(found["samples"][f"local_{name}"], key=lambda row: row["doc_id"])
            answer[name] = {
                "cpu_seconds": time.process_time() - began,
                "metrics": {k.partition(",")[0]: v for k, v in found["results"][f"local_{name}"].items()
                            if isinstance(v, float)},
                "items": [{"doc_id": row["doc_id"], "acc": row["acc"], "acc_norm": row["acc_norm"],
                           "logprobs": [float(one[0]) for one in row["filtered_resps"]]} for row in samples],
            }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
