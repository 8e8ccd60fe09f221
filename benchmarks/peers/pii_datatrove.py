"""Spans that datatrove's PIIFormatter replaces, and its CPU seconds.

Runs in the peers' own Python. Input: `{"texts": PATH}`, a file with one JSON string a line. Output: `version`, `spans`
(for each text a list of [start, end, type] in characters) and `seconds` of `PIIFormatter.format`. The formatter does
not tell its spans; they are the matches of its two expressions that pass its validator.
"""

import contextlib
import io
import json
import sys
import time
from importlib import metadata

payload = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()
    with open(payload["texts"], encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    start = time.process_time()
    for text in texts:
        formatter.format(text)
    seconds = time.process_time() - start
    spans = []
    if payload.get("spans"):
        for text in texts:
            found = []
            for name, replacer in (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer)):
                for match in replacer.regex.finditer(text):
                    if replacer.validator is None or replacer.validator(match.group(0)):
                        found.append([match.start(), match.end(), name])
            spans.append(found)

print(json.dumps({"version": metadata.version("datatrove"), "spans": spans, "seconds": seconds}))
