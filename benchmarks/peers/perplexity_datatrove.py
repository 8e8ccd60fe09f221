"""datatrove's `utils/perplexity.py` on given texts, KenLM model and SentencePiece model: one document at a time.

Reads {"texts", "model", "pieces", "repeat"}, prints {"seconds", "scores"}: the least CPU seconds, datatrove's numbers.
"""

import json
import sys
import time

import kenlm
import sentencepiece
from datatrove.utils.perplexity import KenlmModel

job = json.load(sys.stdin)
scorer = KenlmModel("none", "none")  # names of what it would download; both are set below
scorer._model = kenlm.Model(job["model"])
processor = sentencepiece.SentencePieceProcessor(model_file=job["pieces"])
scorer.tokenizer._model = processor
seconds = []
for _ in range(job["repeat"]):
    start = time.process_time()
    scores = [scorer.get_perplexity(text) for text in job["texts"]]
    seconds.append(time.process_time() - start)
print(json.dumps({"seconds": min(seconds), "scores": scores}))
