"""datatrove's WarcReader over one file: documents and CPU seconds.

Runs in the peers' own Python. Input: `{"path": PATH}`. Output: `version`, `docs`, `seconds`.
"""

import contextlib
import io
import json
import os
import sys
import time
from importlib import metadata

payload = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    import pylibmagic  # noqa: F401  # brings libmagic for python-magic
    from datatrove.pipeline.readers import WarcReader

    folder, name = os.path.split(payload["path"])
    start = time.process_time()
    docs = sum(1 for _ in WarcReader(folder, glob_pattern=name).run())
    seconds = time.process_time() - start
print(json.dumps({"version": metadata.version("datatrove"), "docs": docs, "seconds": seconds}))
