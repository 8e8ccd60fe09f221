"""Bare loops of resiliparse, trafilatura and jusText over HTML pages in UTF-8: CPU seconds and characters found.

Runs in the peers' own Python, which needs `resiliparse`, `trafilatura`, `justext` and `lxml_html_clean`. Input:
`{"pages": PATH, "repeat": N}`: a file with one page a line, in base64. Output: `versions`, `seconds` (loop -> the least
of `repeat` runs over all pages), `chars` (loop -> characters found).
"""

import base64
import json
import logging
import sys
import time
from importlib import metadata

import justext
import trafilatura
from resiliparse.extract.html2text import extract_plain_text

logging.disable(logging.CRITICAL)
payload = json.load(sys.stdin)
with open(payload["pages"], "rb") as lines:
    pages = [base64.b64decode(line) for line in lines]
english = justext.get_stoplist("English")


def by_justext(page):
    try:
        return "\n".join(p.text for p in justext.justext(page, english) if not p.is_boilerplate)
    except Exception:  # lxml refuses some pages; the others count
        return ""


LOOPS = {
    "resiliparse": lambda page: extract_plain_text(page.decode("utf-8", "replace"), main_content=True, alt_texts=False),
    "trafilatura": lambda page: trafilatura.extract(page.decode("utf-8", "replace"), include_comments=False),
    "trafilatura, fast": lambda page: trafilatura.extract(
        page.decode("utf-8", "replace"), include_comments=False, fast=True
    ),
    "jusText": by_justext,
}
seconds, chars = {}, {}
for name, loop in LOOPS.items():
    loop(pages[0])
    times = []
    for _ in range(payload["repeat"]):
        start = time.process_time()
        chars[name] = sum(len(loop(page) or "") for page in pages)
        times.append(time.process_time() - start)
    seconds[name] = min(times)
versions = {name: metadata.version(name) for name in ("resiliparse", "trafilatura", "justext")}
print(json.dumps({"versions": versions, "seconds": seconds, "chars": chars}))
