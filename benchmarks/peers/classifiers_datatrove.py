"""datatrove's language filter and fastText classifier filter: CPU seconds, and what they decide.

Runs in the peers' own Python, which needs `fasttext-numpy2-wheel` and `fasteners` beside
datatrove. Input: `{"texts": PATH, "langid": PATH,
"quality": PATH, "label": NAME}`: a file with one JSON string a line, and two fastText models. Output: `version`,
`seconds` ({langid, quality}), `languages` (label for each text) and `scores` (of the label, for each text).
"""

import json
import sys
import time
from importlib import metadata

from datatrove.data import Document
from datatrove.pipeline.filters import FastTextClassifierFilter, LanguageFilter
from fasttext.FastText import _FastText

payload = json.load(sys.stdin)
with open(payload["texts"], encoding="utf-8") as lines:
    texts = [json.loads(line) for line in lines]
language = LanguageFilter(label_only=True)
language.model._model = _FastText(payload["langid"])  # else it downloads lid.176.bin
label = payload["label"].removeprefix("__label__")
quality = FastTextClassifierFilter(payload["quality"], keep_labels=(label, 0.5), newline_replacement=" ")
quality._model = _FastText(payload["quality"])
seconds, documents = {}, {}
for name, chosen in (("langid", language), ("quality", quality)):
    best = float("inf")
    for _ in range(2):
        documents[name] = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
        start = time.process_time()
        for document in documents[name]:
            chosen.filter(document)
        best = min(best, time.process_time() - start)
    seconds[name] = best
print(json.dumps({
    "version": metadata.version("datatrove"), "seconds": seconds,
    "languages": [document.metadata["language"] for document in documents["langid"]],
    "scores": [document.metadata[payload["label"]] for document in documents["quality"]],
}))  # fmt: skip
