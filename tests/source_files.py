"""Files of records for the tests of the readers, and every row that reading them gives."""

import io

import pyarrow.fs as pafs
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.stage import DROPPED, INGEST_SCHEMA, KEPT, QUARANTINED
from stages.ingest import arrow, jsonl, parquet, warc

FS = pafs.LocalFileSystem()
PAGE = b"<html><body>" + b"Some words of a page. " * 20 + b"</body></html>"


def rows_of(module, path, **params):
    """All rows of a file, slice by slice; checks what every reader promises."""
    models = {warc: warc.Warc, jsonl: jsonl.Jsonl, parquet: parquet.Parquet, arrow: arrow.Arrow}
    model = models[module](**params)
    found = []
    for start, end in module.split(FS, str(path), path.stat().st_size, model):
        last = -1
        for batch in module.read(FS, str(path), start, end, model):
            assert batch.schema.equals(INGEST_SCHEMA)
            assert 0 < batch.num_rows <= 256
            for row in batch.to_pylist():
                assert row["record_offset"] > last
                last = row["record_offset"]
                assert row["verdict"] in (KEPT, DROPPED, QUARANTINED)
                assert (row["verdict"] == KEPT) == (row["reason"] is None)
                assert (row["verdict"] == QUARANTINED) == (row["error"] is not None)
                found.append(row)
    assert len({row["record_offset"] for row in found}) == len(found)
    return found


def fates(found):
    """Short form: (last part of the URL, reason or None)."""
    return [((row["url"] or "").rpartition("/")[2], row["reason"]) for row in found]


def response(name, body=PAGE, status="200 OK", headers=(("Content-Type", "text/html; charset=utf-8"),), gzipped=True,
             warc_headers=None):  # fmt: skip
    """The bytes of one response record."""
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=gzipped)
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(f"http://a.example/{name}", "response", payload=io.BytesIO(body),
                                                  http_headers=http, warc_headers_dict=warc_headers))  # fmt: skip
    return stream.getvalue()


def other(kind, name="", payload=b"", content_type="application/warc-fields"):
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=True)
    writer.write_record(writer.create_warc_record(f"http://a.example/{name}", kind, payload=io.BytesIO(payload),
                                                  warc_content_type=content_type))  # fmt: skip
    return stream.getvalue()


def noise(number):
    """A page that does not compress to nothing, so that damage hits the middle of the data."""
    state, out = number, []
    for _ in range(60):
        state = (state * 1103515245 + 12345) % 2**31
        out.append(b"<p>%d word%d</p>" % (state, state % 97))
    return b"<html>" + b"".join(out) + b"</html>"
