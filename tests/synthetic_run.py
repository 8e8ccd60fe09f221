"""A made-up run directory with every file that the report reads; hostile strings included on request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCRIPT = "<script>alert(1)</script>"
RULES = [
    ("gopher_quality.words", ">=", 50, "gopher_quality.words_min"),
    ("gopher_quality.words", "<=", 100_000, "gopher_quality.words_max"),
    ("gopher_quality.mean_word_length", "<=", 10, "gopher_quality.mean_word_length_max"),
    ("gopher_quality.stop_words", ">=", 2, "gopher_quality.stop_words_min"),
    ("gopher_repetition.dup_line_fraction", "<=", 0.3, "gopher_repetition.dup_line_fraction_max"),
    ("c4.sentences", ">=", 5, "c4.sentences_min"),
    ("c4.curly", "<=", 0, "c4.curly_max"),
    ("quality.score", ">=", 0.35, "quality.score_min"),
    ("perplexity.score", "<=", 900, "too_odd"),
]
LANGUAGES = ["en", "de", "fr", "es", "ru", "ja", "zh", "it", "pl", "nl"]


def write_run(folder: Path, documents: int = 4000, hostile: bool = False, failed: bool = False) -> Path:
    """Write the run and return its folder. `hostile` puts markup into every string that a stranger controls."""
    rng = np.random.default_rng(11)
    n = documents
    evil = SCRIPT if hostile else ""
    language = rng.choice(LANGUAGES, n, p=[0.58, 0.1, 0.07, 0.06, 0.05, 0.04, 0.04, 0.03, 0.02, 0.01])
    host_number = np.minimum(rng.zipf(1.6, n), 400)
    words = np.rint(np.exp(rng.normal(5.6, 1.1, n)))
    columns = {
        "langid.score": np.clip(rng.beta(9, 1.2, n), 0, 1),
        "gopher_quality.words": words,
        "gopher_quality.mean_word_length": rng.normal(5.1, 1.3, n).clip(1, 24),
        "gopher_quality.stop_words": rng.poisson(9, n).astype(float),
        "gopher_quality.symbol_ratio": rng.exponential(0.02, n),
        "gopher_repetition.dup_line_fraction": rng.beta(1, 8, n),
        "gopher_repetition.top_2gram": rng.beta(1.5, 20, n),
        "c4.sentences": rng.poisson(14, n).astype(float),
        "c4.curly": (rng.random(n) < 0.01).astype(float),
        "quality.score": rng.beta(2.4, 2, n),
        "perplexity.score": np.exp(rng.normal(5.7, 0.8, n)),
    }
    stage, reason = np.full(n, None, object), np.full(n, None, object)
    score, threshold = np.full(n, np.nan), np.full(n, np.nan)
    alive = np.ones(n, bool)

    def drop(mask: np.ndarray, name: str, why: str, values: np.ndarray | None = None, bound: float = np.nan) -> None:
        hit = mask & alive
        stage[hit], reason[hit] = name, why
        score[hit], threshold[hit] = (values[hit] if values is not None else np.nan), bound
        alive[hit] = False

    quarantined = rng.random(n) < 0.006
    stage[quarantined], reason[quarantined] = "ingest", "truncated"
    alive &= ~quarantined
    drop(rng.random(n) < 0.07, "ingest", "http_status")
    drop(rng.random(n) < 0.05, "extract", "empty")
    drop(language != "en", "language", "langid.label")
    drop(host_number == 3, "language", "langid.label")
    for column, op, value, name in RULES:
        failing = columns[column] < value if op == ">=" else columns[column] > value
        drop(failing, "select", name, columns[column], value)
    cluster = np.full(n, None, object)
    cluster_number = np.minimum(rng.zipf(1.7, n), 4000)
    members = alive & (cluster_number < 200) & (rng.random(n) < 0.35)
    ids = [f"{value:032x}" for value in (rng.integers(0, 2**62, n).astype(object) << 66)]
    seen: dict[int, str] = {}
    canonical = np.full(n, None, object)
    for row in np.flatnonzero(members):
        first = seen.setdefault(int(cluster_number[row]), ids[row])
        cluster[row] = canonical[row] = first
    duplicate = members & np.array([c is not None and c != i for c, i in zip(canonical, ids, strict=True)])
    drop(duplicate, "near_dedup", "near_duplicate")
    drop(rng.random(n) < 0.004, "decontaminate", "hellaswag")

    verdict = np.where(quarantined, "quarantined", np.where(alive, "kept", "dropped"))
    hosts = [f"site{number}.example{evil}" for number in host_number]
    urls = [f"https://{h}/articles/{i[:6]}/a-page{evil}" for h, i in zip(hosts, ids, strict=True)]
    if hostile:
        urls[::2] = [f"javascript:alert({number})//\u202e{evil}" for number in range(len(urls[::2]))]
        reason[reason == "http_status"] = f"http{SCRIPT}"
        language[language == "de"] = '"><'
    sizes = (words * 6).astype(np.int64)
    nodes: dict[str, list[str]] = {}
    for column in columns:
        node, leaf = column.split(".")
        nodes.setdefault(node, []).append(leaf)
    scores = pa.StructArray.from_arrays(
        [pa.StructArray.from_arrays([pa.array(columns[f"{node}.{leaf}"]) for leaf in leaves], leaves)
         for node, leaves in nodes.items()],
        list(nodes),
    )  # fmt: skip
    source = np.where(rng.random(n) < 0.7, "crawl-a", "crawl-b")
    ledger = pa.table(
        {
            "doc_id": ids, "source": source, "file": ["CRAWL-00000.warc.gz"] * n, "record_offset": np.arange(n) * 9173,
            "url": urls, "host": hosts, "language": pa.array(language.tolist(), pa.string()),
            "text_bytes": sizes, "verdict": verdict, "stage": pa.array(stage.tolist(), pa.string()),
            "reason": pa.array(reason.tolist(), pa.string()), "score": pa.array(score, mask=np.isnan(score)),
            "threshold": pa.array(threshold, mask=np.isnan(threshold)),
            "cluster_id": pa.array(cluster.tolist(), pa.string()),
            "canonical_id": pa.array(canonical.tolist(), pa.string()), "scores": scores,
        }
    )  # fmt: skip
    for name in ("ledger", "quarantine", "tokens", "tokenizer", "probes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(ledger.slice(0, n // 2), folder / "ledger/part-00000.parquet")
    pq.write_table(ledger.slice(n // 2), folder / "ledger/part-00001.parquet")
    bad = ledger.filter(pa.array(quarantined)).select(
        ["doc_id", "source", "file", "record_offset", "url", "stage", "reason"]
    )
    bad = bad.append_column("error", pa.array([f"gzip stream ends after 8192 bytes{evil}"] * len(bad)))
    pq.write_table(
        bad.append_column("raw", pa.array([b"\x00<html>"] * len(bad))), folder / "quarantine/part-00000.parquet"
    )
    _write_summary(folder, ledger, failed, evil)
    _write_training(folder, rng, evil)
    return folder


def _write_summary(folder: Path, ledger: pa.Table, failed: bool, evil: str) -> None:
    rows = ledger.select(["verdict", "stage", "reason", "text_bytes"]).to_pylist()
    totals = {"in": len(rows)} | {v: sum(r["verdict"] == v for r in rows) for v in ("kept", "dropped", "quarantined")}
    size = {v: sum(r["text_bytes"] for r in rows if r["verdict"] == v) for v in ("kept", "dropped", "quarantined")}
    left, stages = len(rows), []
    kinds = {"ingest": "ingest", "extract": "doc", "language": "doc", "gopher_quality": "doc",
             "train_classifier": "artifact", "select": "doc",
             "near_dedup": "global", "decontaminate": "doc", "train_tokenizer": "artifact",
             "tokenize": "sink"}  # fmt: skip
    for number, (name, kind) in enumerate(kinds.items()):
        mine = [r for r in rows if r["stage"] == name]
        bad = sum(r["verdict"] == "quarantined" for r in mine)
        reasons: dict[str, int] = {}
        for row in mine:
            if row["verdict"] == "dropped":
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        lost = len(mine) - bad
        stages.append(
            {"name": name, "type": "select" if name == "language" else name, "kind": kind,
             "fingerprint": f"{number}a7f3c09d1e44b" * 4,
             "in": left, "kept": left - lost - bad, "dropped": lost, "quarantined": bad, "reasons": reasons,
             "bytes_in": 0, "bytes_kept": 0, "bytes_dropped": 0, "bytes_quarantined": 0,
             "wall_seconds": 1.7 * (number + 1) ** 1.4, "cpu_seconds": 1.5 * (number + 1) ** 1.4,
             "peak_rss_bytes": 310_000_000 + 40_000_000 * number, "cached": number in (1, 3),
             "metrics": _metrics(evil) if name == "train_classifier" else {}}
        )  # fmt: skip
        left -= lost + bad
    summary = {
        "name": "fineweb-sample", "manifest": f"manifests/fineweb.yaml{evil}", "started": "2026-11-21 04:12:09 UTC",
        "finished": "2026-11-21 04:21:50 UTC", "seconds": 581.3, "ok": not failed,
        "failures": [f"near_dedup: slice crawl-b/00017: no space left on device{evil}"] if failed else [],
        "documents": totals, "bytes": {"in": sum(size.values()), **size}, "stages": stages,
        "warnings": [f"select: 1 of 9 rules dropped no document: gopher_quality.words_max{evil}"],
    }  # fmt: skip
    effect = {"failed": 310, "only": 12}
    group = {"name": f"en{evil}", "documents": 900, "kept": 600, "bytes": 1, "bytes_kept": 1,
             "rules": {f"{name}{evil}": effect for *_, name in RULES}}  # fmt: skip
    impact_rules = [{"stage": "select", "rule": f"{name}{evil}", "seen": 1000, "first": 200 - number, "failed": 310,
                     "only": 12 * (number > 0), "only_bytes": 40_000}
                    for number, (*_, name) in enumerate(RULES)]  # fmt: skip
    summary["impact"] = {
        "rules": impact_rules,
        "by": {"language": [group], "domain": [group], "kind": [], "source": [group]},
    }
    summary |= _duplicates(evil)
    (folder / "summary.json").write_text(json.dumps(summary))
    rules = [{"column": c, "op": o, "value": v, "name": n, "keep": f"{c} {o} {v}"} for c, o, v, n in RULES]
    language = [{"column": "langid.label", "op": "in", "value": ["en"], "name": "langid.label"}]
    nodes = [{"name": "language", "params": {"rules": language}}, {"name": "select", "params": {"rules": rules}},
             {"name": "near_dedup", "params": {"rules": None}}]  # fmt: skip
    (folder / "plan.json").write_text(json.dumps({"name": "x", "nodes": nodes}))


def _duplicates(evil: str) -> dict:
    """`duplicates` and `alarms` of a run with a template farm."""
    at = np.linspace(0, 1, 101)
    curve = {"title": f"14 bands of 8 rows{evil}", "x_label": "Jaccard of a pair", "y_label": f"proposed{evil}",
             "x": at.tolist(), "y": (1 - (1 - at**8) ** 14).tolist(), "mark": 0.75,
             "note": f"half at 0.68{evil}"}  # fmt: skip
    biggest = [
        {"canonical_id": f"{n:032x}", "url": None if n == 4 else f"https://farm.example/{n}{evil}",
         "source": None if n == 4 else "crawl-a", "documents": 900 - 100 * n, "hosts": 12,
         "host_names": [f"farm{k}.example{evil}" for k in range(3)],
         "examples": [f"javascript:alert({n})//{evil}", f"https://farm.example/{n}/copy{evil}"]}
        for n in range(5)
    ]  # fmt: skip
    losing = [{"name": f"farm{n}.example{evil}", "documents": 400, "copies": 390 - 90 * n} for n in range(5)]
    counts = [0] * 75 + [3 * n + 5 for n in range(25)]
    node = {"node": "near_dedup", "type": "near_dedup", "marks": False, "seen": 2600, "copies": 1400,
            "copy_bytes": 2_200_000, "threshold": 0.75, "clusters": 130, "biggest": biggest, "curve": curve,
            "sizes": [{"low": 2 ** (n - 1) + 1, "high": 2**n, "clusters": 60 - 6 * n, "documents": 99}
                      for n in range(1, 11)],
            "scores": {"edges": (np.arange(101) / 100).tolist(), "counts": counts, "equal": 41},
            "losing": {"source": [], "host": losing, "language": losing[:2]}}  # fmt: skip
    alarms = [{"node": "near_dedup", "kind": "host", "limit": 0.5, "total": 2, **row} for row in losing[:2]]
    return {"duplicates": [node], "alarms": alarms}


def _metrics(evil: str) -> dict:
    curve = [{"threshold": t / 20, "kept": 1 - t / 25, "precision": 0.5 + t / 50, "recall": 1 - (t / 20) ** 3}
             for t in range(20)]  # fmt: skip
    return {"auc": 0.991, "ece": 0.03, "preprocess": f"dclm{evil}", "keep_rate": curve}


def _write_training(folder: Path, rng: np.random.Generator, evil: str) -> None:
    tokens = {"train": {"rows": 712, "tokens": 1_623_004, "text_bytes": 6_390_112},
              "validation": {"rows": 8, "tokens": 15_220, "text_bytes": 60_022}}  # fmt: skip
    shard = {"path": "train-00000.parquet", "split": "train", "rows": 712, "tokens": 1, "bytes": 1, "sha256": "ab"}
    index = {"format": "tamis-tokens/1", "dtype": "uint16", "tokenizer": {}, "shards": [shard], "totals": tokens}
    (folder / "tokens/index.json").write_text(json.dumps(index))
    artifact = {
        "fingerprint": "5d137d0f4ecd1f641b4101093fa828925c6b77d4f5285d7935e361fabe534b16", "vocab_size": 16384,
        "sample": {"documents": 700, "bytes": 6_201_000, "hosts": 131},
        "held_out": {
            "documents": 14, "bytes": 98_000, "tokens": 25_000, "bytes_per_token": 3.92,
            "tokenizers": [
                {"name": "this", "vocab_size": 16384, "tokens": 25_000, "bytes_per_token": 3.92, "unseen": 0.4},
                {"name": "gpt-neox", "vocab_size": 50280, "tokens": 22_374, "bytes_per_token": 4.38, "unseen": 0.8},
                {"name": "gpt2", "note": "left out: the package tiktoken is not installed"},
            ],
            "groups": {"kind": [
                {"name": "web", "documents": 10, "bytes": 70_000, "bytes_per_token": {"this": 4.1, "gpt-neox": 4.4}},
                {"name": evil, "documents": 4, "bytes": 28_000, "bytes_per_token": {"this": 3.5, "gpt-neox": None}},
            ]},
        },
        "vocabulary": {"learned": 16000, "tokens": 1_600_000, "unused": 400, "rare": 900, "rare_below": 0.98,
                       "longest": [{"id": 900, "text": f" internationalization{evil}", "count": 12}]},
        "examples": [["The", " quick", evil]],
    }  # fmt: skip
    (folder / "tokenizer/artifact.json").write_text(json.dumps(artifact))
    steps = []
    for step in range(1, 401):
        loss = 3.9 + 5.8 * np.exp(-step / 60) + 0.05 * rng.normal()
        row = {
            "step": step,
            "loss": loss,
            "tokens": step * 16384,
            "tokens_per_s": 21_300.5,
            "lr": 1e-3,
            "grad_norm": 0.8,
        }
        if step % 50 == 0:
            row |= {"val_loss": loss + 0.12, "val_bits_per_byte": (loss + 0.12) / 2.72}
        steps.append(row)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps) + '{"step": 401, "lo')
    probes = []
    for step in range(0, 401, 50):
        for task, n, chance in (
            (f"hellaswag{evil}", 1000, 0.25),
            ("openbookqa", 500, 0.25),
            ("commonsenseqa", 1221, 0.2),
        ):
            acc = chance + 0.03 * step / 400 * (task != "openbookqa") + rng.normal() * 0.008
            error = (acc * (1 - acc) / n) ** 0.5
            bits = 1.35 + 1.3 * np.exp(-step / 90) + rng.normal() * 0.01
            probes.append({"step": step, "task": task, "n": n, "acc": acc - 0.01, "acc_norm": acc, "acc_stderr": error,
                           "acc_norm_stderr": error, "bits_per_byte": bits, "bits_per_byte_stderr": 0.02})  # fmt: skip
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probes))
    choices = {"id": "1", "context": "c", "choices": ["a", "b", "c", "d", "e"], "gold": 0}
    (folder / "probes/commonsenseqa.jsonl").write_text(json.dumps(choices) + "\n")
