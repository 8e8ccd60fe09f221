"""Builds RUN/report/index.html: gathers what the run left, asks the ledger, draws, and publishes one file.

The page holds no script and asks nothing of the network (a content security policy says so to the browser); every
value is escaped by the template, and a URL becomes a link only when it is plain http or https. Only summary.json and
the ledger must exist: a run that stopped half way has a report too. Cost: about 2 s for a million documents.
"""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.errors import TamisError
from pipeline.report import charts, duplicates, probes, tokenizer, training
from pipeline.report.queries import Bound, Ledger
from pipeline.shown import shown
from pipeline.storage import publish

SCORES, GROUPS, QUARANTINED = 12, 15, 12


def build(run_dir: Path) -> Path:
    """Write RUN/report/index.html and return its path. Raises TamisError when there is no summary or no ledger."""
    run_dir = Path(run_dir)
    summary = _json(run_dir / "summary.json")
    if summary is None or not any((run_dir / "ledger").glob("*.parquet")):
        raise TamisError(f"{run_dir}: expected summary.json and ledger/*.parquet, found none: run `tamis run` first")
    page = _environment().get_template("template.html").render(_context(run_dir, summary))
    path = run_dir / "report" / "index.html"
    publish(path, page.encode("utf-8", "replace"))
    return path


def _context(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    rules = _rules(run_dir)
    run: dict[str, Any] = {"stages": [], "failures": [], "warnings": [], "started": "", "seconds": None, "impact": None}
    run |= summary
    notes: list[str] = list(run["warnings"])
    steps, unread = _lines(run_dir / "train.jsonl")
    rounds, unread_probes = _lines(run_dir / "probes.jsonl")
    if unread + unread_probes:
        notes.append(f"train.jsonl, probes.jsonl: lines that are not JSON, left out here: {unread + unread_probes}")
    tokens, asked = _json(run_dir / "tokens" / "index.json"), probes.section(run_dir, rounds)
    if asked and asked["note"]:
        notes.append(asked["note"])
    with Ledger(run_dir) as ledger:
        run = {**ledger.totals(), **run}  # a run that failed early states none
        reasons = ledger.reasons()
        bounds = _bounds(rules, reasons)
        languages, hosts, sources = (ledger.groups(c, GROUPS) for c in ("language", "host", "source"))
        losses = [group for kind in ("source", "language", "host") for group in _by_reason(kind, ledger)]
        quarantine_counts, quarantined = ledger.quarantined(QUARANTINED)
        distributions, sampled = ledger.distributions(bounds, SCORES)
    fired = {row["reason"] for row in reasons}
    seen = {stage["name"]: stage["in"] for stage in run["stages"]}
    for row in reasons:
        row["share_of_stage"] = row["documents"] / seen[row["stage"]] if seen.get(row["stage"]) else 0.0
    return {
        "run": run,
        "manifest": "/".join(Path(str(run.get("manifest", ""))).parts[-2:]),
        "flow": _flow(run),
        "reasons": reasons,
        "silent": sorted({name for _, _, _, name in rules} - fired),
        "groups": [
            [g for g in (_group("Languages", *languages), _group("Sources", *sources)) if g["rows"]],
            [g for g in (_group("Hosts", *hosts),) if g["rows"]],
        ],
        "impact": _impact(run["impact"]),
        "losses": losses,
        "warnings": notes,
        "duplicates": duplicates.sections(run),
        "quarantine_counts": quarantine_counts,
        "quarantined": quarantined,
        "scores": [{"found": found, "svg": charts.distribution(found)} for found in distributions],
        "sampled": sampled,
        "tokens": tokens,
        "tokenizer": tokenizer.section(_json(run_dir / "tokenizer" / "artifact.json")),
        "models": _models(run["stages"]),
        "training": training.section(run_dir, steps, tokens, run.get("train")),
        "validated": next((row for row in reversed(steps) if charts.finite(row.get("val_bits_per_byte"))), {}),
        "probes": asked,
    }


def _rules(run_dir: Path) -> list[tuple[str, str, Any, str]]:
    """(column, operator, bound, name) of every rule that a `select` node of the plan applied, in order."""
    plan = _json(run_dir / "plan.json") or {}
    return [
        (rule["column"], rule["op"], rule["value"], rule["name"])
        for node in plan.get("nodes", [])
        for rule in node.get("params", {}).get("rules") or []
        if isinstance(rule, dict) and {"column", "op", "value", "name"} <= rule.keys()
    ]


def _bounds(rules: list[tuple[str, str, Any, str]], reasons: list[dict[str, Any]]) -> list[Bound]:
    """Numeric rules with the number of documents that each dropped."""
    dropped: dict[str, int] = {}
    for row in reasons:
        dropped[row["reason"]] = dropped.get(row["reason"], 0) + row["documents"]
    return [
        Bound(name, column, op, float(value), dropped.get(name, 0))
        for column, op, value, name in rules
        if isinstance(value, int | float)
    ]


def _flow(run: dict[str, Any]) -> list[dict[str, Any]]:
    """What each stage that lost documents left: widths are shares of the documents read."""
    total = max(run["documents"]["in"], 1)
    left = run["documents"]["in"]
    rows = []
    for stage in run["stages"]:
        lost, bad = stage["dropped"], stage["quarantined"]
        if stage["kind"] in ("sink", "artifact") or not lost + bad:
            continue
        left -= lost + bad
        shares = {"kept": left / total, "dropped": lost / total, "quarantined": bad / total}
        rows.append({"stage": stage, "left": left, "lost": lost, "bad": bad, **shares})
    return rows


def _impact(impact: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rules that removed something, strongest first; then the largest languages, domains and kinds with their rules."""
    if not impact or not any(rule["failed"] for rule in impact["rules"]):
        return None
    rules = sorted(
        (rule for rule in impact["rules"] if rule["failed"]), key=lambda rule: (-rule["failed"], rule["rule"])
    )
    groups = []
    for name in ("language", "domain", "kind"):
        rows = [
            {
                "name": row["name"],
                "documents": row["documents"],
                "kept": row["kept"],
                "rules": sorted(row["rules"].items(), key=lambda item: (-item[1]["failed"], item[0]))[:4],
            }
            for row in impact["by"][name]
            if row["rules"]
        ]
        if rows:
            groups.append({"title": f"By {name}", "rows": rows})
    return {"rules": rules, "groups": groups}


def _group(title: str, rows: list[dict[str, Any]], total: int) -> dict[str, Any]:
    return {"title": title, "rows": rows, "total": total}


def _by_reason(kind: str, ledger: Ledger) -> list[dict[str, Any]]:
    """Values of a column that lost most of their documents, grouped by the reason that took most of them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.heavy_losses(kind):
        groups.setdefault(row["reason"] or "", []).append(row)
    return [{"kind": kind, "reason": reason, "rows": rows} for reason, rows in groups.items()]


def _models(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers that each trained model left, and the curve of a classifier; the tokenizer has its own section."""
    found = []
    for stage in stages:
        numbers = {
            name: value for name, value in stage.get("metrics", {}).items() if isinstance(value, int | float | str)
        }
        if stage["kind"] == "artifact" and numbers and stage["type"] not in ("probes", "train_tokenizer"):
            curve = charts.keep_rate(stage["name"], stage["metrics"].get("keep_rate") or [])
            found.append({"name": stage["name"], "numbers": numbers, "curve": curve})
    return found


def _json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise TamisError(f"{path}: expected JSON, found: {error}") from None


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSONL file, and the number of lines that are none (a killed writer leaves half a line)."""
    rows, unread = [], 0
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unread += bool(line.strip())
    return rows, unread


def safe_link(url: Any) -> str:
    """The URL when it is plain http or https, else an empty string."""
    text = str(url)
    plain = text.startswith(("http://", "https://")) and all("!" <= c <= "~" for c in text)
    return text if plain and len(text) <= 2000 else ""


def number(value: float | None, digits: int = 3) -> str:
    """12,345 in full for counts; 1.23 M above a million; significant digits for fractions; an en dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{unit}" if abs(value) < 1000 * size else f"{value / size:,.0f}{unit}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def fixed(value: float | None, digits: int, sign: bool = False) -> str:
    """So many decimals, zeros kept: columns of measured numbers. `sign` puts + or a minus sign in front."""
    if not charts.finite(value):
        return "–"
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def places(error: float | None, least: int, scale: float = 1) -> int:
    """Decimals for a number with this standard error times `scale`: `least`, or more where the error would read 0."""
    if not charts.finite(error) or not error:
        return least
    return max(least, min(6, -math.floor(math.log10(abs(scale * error)))))


def counted(count: float, thing: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number(count)} {thing}{'' if count == 1 else 's'}"


def size(value: float | None) -> str:
    if value is None:
        return "–"
    for step, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= step:
            return f"{value / step:.3g} {unit}" if value < 1000 * step else f"{value / step:,.0f} {unit}"
    return f"{int(value)} B"


def moment(text: str) -> str:
    """An ISO time as `2026-11-21 05:19 UTC`; anything else as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()


def percent(value: float | None) -> str:
    if value is None:
        return "–"
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{value * 100:.1f} %" if value < 0.9995 or value >= 1 else "> 99.9 %"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number, "size": size, "percent": percent, "duration": duration, "shown": shown, "moment": moment,
        "safe_link": safe_link, "fixed": fixed, "places": places, "counted": counted,
    }  # fmt: skip
    return environment
