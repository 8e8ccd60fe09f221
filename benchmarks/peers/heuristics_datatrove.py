"""Decisions of datatrove's four heuristic filters, one for each document and filter, with CPU seconds.

Runs in the peers' own Python. Input: `{"texts": PATH}`, a file with one JSON string a line, and maybe `filters`, some
of the names of `FILTERS`. Output: `version`, `docs`, `decisions` (filter -> the reason of each drop, null for a
document that is kept) and `seconds` (filter -> CPU seconds).

The filters run in the order of `FILTERS` on one document after the other, as in a datatrove pipeline that drops
nothing: its cache of the last five word lists then serves the filters that come after the first.
"""

import contextlib
import io
import json
import sys
import time
from importlib import metadata

payload = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    FILTERS = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "fineweb": FineWebQualityFilter(),
        "c4": C4QualityFilter(),
        "c4_no_end_mark": C4QualityFilter(filter_no_terminal_punct=False),
    }
    if payload.get("filters"):
        FILTERS = {name: FILTERS[name] for name in payload["filters"]}
    with open(payload["texts"], encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    for chosen in FILTERS.values():  # loads the tokenizer, which is not what is measured
        with contextlib.suppress(ZeroDivisionError):
            chosen.filter(Document(text="A few words. And more of them.", id="0"))

    decisions: dict[str, list] = {name: [] for name in FILTERS}
    seconds = dict.fromkeys(FILTERS, 0.0)
    for number, text in enumerate(texts):
        for name, chosen in FILTERS.items():
            start = time.process_time()
            try:
                verdict = chosen.filter(Document(text=text, id=str(number)))
            except ZeroDivisionError:
                verdict = (False, "ZeroDivisionError")
            seconds[name] += time.process_time() - start
            decisions[name].append(None if verdict is True else verdict[1])

print(json.dumps({"version": metadata.version("datatrove"), "docs": len(texts), "decisions": decisions,
                  "seconds": seconds}))  # fmt: skip
