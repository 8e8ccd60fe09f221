"""What each rule did, and to whom: keep rates and the effect of every rule by language, domain, kind and source.

`first` counts the documents whose reason is the rule, `failed` all that failed it, `only` those that no other rule of
that `select` would have removed: what comes back when the rule goes. Asked of the ledger by DuckDB, so the cost is one
scan of its narrow columns; a group's list holds its TOP largest values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from pipeline.plan import Plan

GROUPS = ("language", "domain", "kind", "source")
TOP = 20


def measure(run_dir: Path, plan: Plan) -> dict[str, Any]:
    """`{"rules": [{stage, rule, seen, failed, first, only, only_bytes}], "by": {group: [{name, documents, kept,
    bytes, bytes_kept, rules: {rule: {failed, only}}}]}}`; rules in the order of the manifest."""
    selects = [node for node in plan.nodes if node.type == "select"]
    with duckdb.connect() as db:
        db.from_parquet(str(run_dir / "ledger" / "*.parquet")).create_view("ledger")
        by = {group: _group(db, group) for group in GROUPS}
        counts = {(row["stage"], row["rule"]): row for row in _rows(db, _RULES.format(keys="stage, rule"))}
        rules = []
        for node in selects:
            last = [other.name for other in plan.nodes if other.position >= node.position]
            seen = _rows(db, "SELECT count(*) AS n FROM ledger WHERE verdict = 'kept' OR stage IN (SELECT unnest($1))",
                         [last])[0]["n"]  # fmt: skip
            for rule in node.params["rules"]:
                none = {"failed": 0, "first": 0, "only": 0, "only_bytes": 0}
                found = counts.get((node.name, rule["name"]), none)
                rules.append(
                    {"stage": node.name, "rule": rule["name"], "seen": seen, **{name: found[name] for name in none}}
                )
    return {"rules": rules, "by": by}


_RULES = """
SELECT {keys}, count(*) AS failed, count(*) FILTER (reason = rule) AS first, count(*) FILTER (n = 1) AS only,
       coalesce(sum(text_bytes) FILTER (n = 1), 0)::BIGINT AS only_bytes
FROM (SELECT *, len(failed_rules) AS n, unnest(failed_rules) AS rule FROM ledger WHERE failed_rules IS NOT NULL)
GROUP BY ALL
"""


def _group(db: duckdb.DuckDBPyConnection, group: str) -> list[dict[str, Any]]:
    largest = _rows(
        db,
        f"""SELECT {group} AS name, count(*) AS documents, count(*) FILTER (verdict = 'kept') AS kept,
                   coalesce(sum(text_bytes), 0)::BIGINT AS bytes,
                   coalesce(sum(text_bytes) FILTER (verdict = 'kept'), 0)::BIGINT AS bytes_kept
            FROM ledger WHERE {group} IS NOT NULL GROUP BY ALL ORDER BY documents DESC, name LIMIT {TOP}""",
    )
    names = [row["name"] for row in largest]
    effects = _rows(
        db,
        f"SELECT * FROM ({_RULES.format(keys=f'{group} AS name, rule')}) WHERE name IN (SELECT unnest($1)) "
        "ORDER BY name, failed DESC, rule",
        [names],
    )
    rules: dict[str, dict[str, Any]] = {name: {} for name in names}
    for row in effects:
        rules[row["name"]][row["rule"]] = {"failed": row["failed"], "only": row["only"]}
    return [{**row, "rules": rules[row["name"]]} for row in largest]


def _rows(db: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
    cursor = db.execute(sql, parameters or [])
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
