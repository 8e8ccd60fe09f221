"""Personal data on gold spans: precision, recall and F1 of each type, beside datatrove's and dolma's rules.

The gold set is small and made up, and the rules were written with its errors in view, so its numbers are in-sample. A
second table is not: the example numbers that the library `phonenumbers` has for each region of the world, in sentences
of our own, which no rule was changed for.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import DATA, need, peer, table

GOLD = DATA / "pii" / "pii_gold.parquet"
TYPES = {"EMAIL": "email", "IP_ADDRESS": "ip", "PHONE": "phone", "CREDIT_CARD": "card", "IBAN": "iban", "SSN": "us_ssn",
         "NPI": "us_npi"}  # fmt: skip
UNLABELLED = {"ambientmeta": {"ip", "iban"}}  # types that the rows of a source do not label
PEER_TYPES = {"datatrove": {"email", "ip"}, "dolma": {"email", "ip", "phone"}}

Found = list[list[tuple[int, int, str]]]


def _tamis(texts: list[str]) -> Found:
    from pipeline.stage import Batch
    from stages.pii import Pii, pii

    out = pii(Batch({"text": pa.array(texts)}, len(texts)), Pii(), SimpleNamespace(seed=0, node="pii"))
    found = []
    for text, spans in zip(texts, out["spans"].to_pylist(), strict=True):
        data = text.encode()
        found.append(
            [(len(data[: s["start"]].decode()), len(data[: s["end"]].decode()),
              s["rule"] if s["type"] == "national_id" else s["type"]) for s in spans]
        )  # fmt: skip
    return found


def _peer(name: str, texts: list[str]) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        answer = peer(f"pii_{name}.py", {"texts": str(path), "spans": True})
    return [[(start, end, kind) for start, end, kind in spans] for spans in answer["spans"]]


def measure(tool: str) -> dict[str, dict[str, Any]]:
    """`{type: {gold, found, precision, recall, f1}}`, null where there is nothing to divide by.

    A gold span is found when a span of its type overlaps it; a span is right when it overlaps a gold one of its type.
    """
    rows = pq.read_table(need("pii", "pii_gold.parquet")).to_pylist()
    texts = [row["text"] for row in rows]
    counts: dict[str, list[int]] = {kind: [0, 0, 0, 0] for kind in TYPES.values()}
    for row, spans in zip(rows, _tamis(texts) if tool == "tamis" else _peer(tool, texts), strict=True):
        gold = [(s["start"], s["end"], TYPES[s["type_norm"]]) for s in row["spans"] if s["type_norm"] in TYPES]
        skip = next((types for source, types in UNLABELLED.items() if row["source"].startswith(source)), set())
        for side, others, at in ((gold, spans, 0), (spans, gold, 2)):
            for start, end, kind in side:
                if kind not in counts or (at == 2 and kind in skip):
                    continue
                counts[kind][at] += 1
                counts[kind][at + 1] += any(kind == other and start < b and a < end for a, b, other in others)
    scores = {}
    for kind, (gold_count, gold_hit, found, right) in counts.items():
        precision = right / found if found else None
        recall = gold_hit / gold_count if gold_count else None
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
        scores[kind] = {"gold": gold_count, "found": found, "precision": precision, "recall": recall, "f1": f1}
    return scores


def phone_examples() -> list[list[Any]]:
    """Rows of sentence, format, how many example numbers of `phonenumbers`, and the share found, whole or in part."""
    examples = peer("pii_phonenumbers.py", {})
    rows: list[list[Any]] = []
    for sentence in ("We were told {} yesterday.", "Tel.: {}", "Order {} has shipped."):
        for form, numbers in examples.items():
            texts = [sentence.format(number) for number in numbers]
            start = sentence.index("{")
            hits = [
                [(a, b) for a, b, kind in spans if kind == "phone"] for spans in _tamis(texts)
            ]  # fmt: skip
            whole = sum((start, start + len(n)) in found for n, found in zip(numbers, hits, strict=True))
            rows.append(
                [f"`{sentence}`", form, len(numbers), whole / len(numbers), sum(map(bool, hits)) / len(numbers)]
            )
    return rows


def section() -> str:
    """Markdown: the table and what it means."""

    def cell(score: dict[str, Any] | None) -> str:
        if score is None or score["f1"] is None:
            return "-"
        return f"{score['precision']:.3f} / {score['recall']:.3f} / **{score['f1']:.3f}**"

    tamis = measure("tamis")
    peers = {name: measure(name) for name in PEER_TYPES}
    rows = [
        [kind, tamis[kind]["gold"], cell(tamis[kind]),
         *(cell(peers[name][kind] if kind in types else None) for name, types in PEER_TYPES.items())]
        for kind in TYPES.values()
    ]  # fmt: skip
    head = ["type", "gold spans", "tamis", "datatrove", "dolma"]
    return f"""## Personal data

Precision / recall / **F1** on {GOLD.name} (2,452 made-up texts). A span counts where it overlaps one of its type; false
alarms of types that a source does not label are not counted. Peers have no rule where a dash stands.

{table(head, rows)}

- The sample is small and synthetic, and the rules were written with its errors in view: these numbers are in-sample.
- Telephone numbers that are missed have no form and no word near them ("on my registered 668 5702"). Several false
  alarms are labels that are missing in the gold (a number after "SSN", an e-mail in a signature).
- The missing IP is 10.218.6.131: private addresses stay by design. NPIs in a table far from their heading, and social
  security numbers written with dots or spaces and no word, are left on purpose: the form is not theirs alone.
- The gold has no secrets and no other national ids; their rules are tested on made-up values with right check digits.

Telephone numbers that no rule was written for, but one (groups of one digit after the country code): a fixed line and
a mobile number of each region of the library `phonenumbers`, as it formats them. Without a word near
it a national number has to look like one; after "Order" it should not be taken for one, international ones aside.

{table(["sentence", "format", "numbers", "found whole", "found"], phone_examples())}"""


if __name__ == "__main__":
    print(section())
