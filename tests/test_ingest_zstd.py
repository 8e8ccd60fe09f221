"""zstd and lz4 crawls: frames for each record or for the whole file, dictionaries in front, broken frames."""

import struct
from pathlib import Path

import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import FS, PAGE, fates, noise, response, rows_of

from pipeline.stage import KEPT, QUARANTINED
from stages.ingest import warc

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}


def record(name, body=PAGE, **options):
    return response(name, body, gzipped=False, **options)


def frame(data, dictionary=None):
    return zstd.compress(data, options=CHECKED, zstd_dict=dictionary)


def skippable(content, number=0xD):
    return struct.pack("<II", 0x184D2A50 | number, len(content)) + content


def test_a_frame_for_each_record_is_cut_into_slices(write):
    frames = [frame(record(str(i), noise(i))) for i in range(20)]
    path = write(b"".join(frames), "x.warc.zst")
    found = rows_of(warc, path, slice_bytes=1000)
    assert len(warc.split(FS, str(path), path.stat().st_size, warc.Warc(slice_bytes=1000))) > 3
    assert fates(found) == [(str(i), None) for i in range(20)]
    assert [row["record_offset"] for row in found] == [sum(map(len, frames[:i])) for i in range(20)]
    assert found[7]["html"] == noise(7)


def test_one_frame_for_the_file_and_frames_across_records(write):
    plain = b"".join(record(str(i), noise(i)) for i in range(9))
    expected = [(str(i), None) for i in range(9)]
    blocks = b"".join(frame(plain[i : i + 700]) for i in range(0, len(plain), 700))
    for data in (frame(plain), blocks):
        assert fates(rows_of(warc, write(data), slice_bytes=500)) == expected
    lz4 = pa.compress(plain, codec="lz4", asbytes=True)
    assert fates(rows_of(warc, write(lz4), slice_bytes=500)) == expected
    assert fates(rows_of(warc, write(lz4[:-300])))[-1][1] == "broken_lz4"
    records = b"".join(pa.compress(record(str(i), noise(i)), codec="lz4", asbytes=True) for i in range(9))
    assert fates(rows_of(warc, write(records))) == expected


@pytest.mark.parametrize("packed", [False, True])
def test_a_dictionary_in_front_is_used(write, packed):
    dictionary = zstd.train_dict([record(str(i), noise(i)) for i in range(60)], 4000)
    content = dictionary.dict_content
    front = skippable(zstd.compress(content) if packed else content)
    data = front + b"".join(frame(record(str(i), noise(i)), dictionary) for i in range(9))
    for slice_bytes in (1, 700, 1 << 30):
        found = rows_of(warc, write(data), slice_bytes=slice_bytes)
        assert fates(found) == [(str(i), None) for i in range(9)]
    assert found[0]["record_offset"] == len(front)
    without = rows_of(warc, write(data[len(front) :]))
    assert [row["verdict"] for row in without] == [QUARANTINED]


def test_a_broken_dictionary_is_one_row(write):
    for content in (b"no dictionary", zstd.compress(b"no dictionary"), b"\x28\xb5\x2f\xfd broken"):
        (row,) = rows_of(warc, write(skippable(content) + frame(record("a")) * 3), slice_bytes=100)
        assert (row["verdict"], row["reason"]) == (QUARANTINED, "bad_dictionary")
        assert "dictionary" in row["error"]
    (row,) = rows_of(warc, write(struct.pack("<II", 0x184D2A5D, 1 << 31)))
    assert row["reason"] == "bad_dictionary"


def test_skippable_frames_hold_no_records(write):
    data = frame(record("a")) + skippable(b"x" * 99, 0) + frame(record("b")) + skippable(b"seek table", 14)
    assert fates(rows_of(warc, write(data))) == [("a", None), ("b", None)]
    assert fates(rows_of(warc, write(data), slice_bytes=50)) == [("a", None), ("b", None)]


def test_broken_frames_cost_themselves_only(write):
    a, b, c = (frame(record(name, noise(i))) for i, name in enumerate("abc"))
    torn = b[:-9] + b"\xff" * 4 + b[-5:]  # nothing comes out of a broken block
    assert fates(rows_of(warc, write(a + torn + c))) == [("a", None), ("", "broken_zstd"), ("c", None)]
    wrong_sum = b[:-4] + b"\xff" * 4
    assert fates(rows_of(warc, write(a + wrong_sum + c))) == [("a", None), ("b", "broken_zstd"), ("c", None)]
    assert fates(rows_of(warc, write(a + b[:-9]))) == [("a", None), ("", "broken_zstd")]
    assert fates(rows_of(warc, write(a + b"garbage" * 9 + c))) == [("a", None), ("", "no_zstd_member"), ("c", None)]
    bomb = frame(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 99999999999\r\n\r\n" + bytes(200 << 20))
    assert fates(rows_of(warc, write(a + bomb + c))) == [("a", None), ("", "bomb"), ("c", None)]
    wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    wide = wide.compress(record("wide")) + wide.flush()  # asks for a window of 256 MB
    assert [row["verdict"] for row in rows_of(warc, write(a + wide + c))] == [KEPT, QUARANTINED, KEPT]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["page", "torn", "cut", "garbage", "two", "split", "skip"]), max_size=8),
       slice_bytes=st.integers(1, 3000))  # fmt: skip
def test_any_slice_size_gives_the_same_rows(tmp_path, kinds, slice_bytes):
    def piece(i, kind):
        data = record(str(i), noise(i))
        packed = frame(data)
        return {
            "page": packed,
            "torn": packed[:300] + b"\xff\xff\xff" + packed[303:],
            "cut": packed[:-40],
            "garbage": b"garbage \x28\xb5\x2f\xfd" * 9,
            "two": frame(data * 2),
            "split": frame(data[:333]) + frame(data[333:]),
            "skip": skippable(b"words \x28\xb5\x2f\xfd" * 5, 3),
        }[kind]

    path = tmp_path / "x.warc.zst"
    path.write_bytes(frame(record("first")) + b"".join(piece(i, kind) for i, kind in enumerate(kinds)))
    whole = rows_of(warc, path, slice_bytes=1 << 30)
    assert rows_of(warc, path, slice_bytes=slice_bytes) == whole
    good = sum({"page": 1, "two": 2, "split": 1}.get(kind, 0) for kind in kinds) + 1
    assert sum(row["verdict"] == KEPT for row in whole) >= good


@pytest.mark.parametrize("name", ["whirlwind-python__whirlwind.warc.wet", "whirlwind-python__whirlwind.warc",
                                  "whirlwind-python__whirlwind.warc.wat"])  # fmt: skip
def test_wet_warc_and_wat_in_any_compression(write, name):
    path = SHARED / "data" / "warc" / name
    if not path.exists():
        pytest.skip("the collected WARC files are not on this machine")
    plain = path.read_bytes()

    def content(found):
        return [(row["url"], row["text"], row["html"], row["verdict"]) for row in found]

    expected = content(rows_of(warc, path))
    assert len(expected) == (0 if name.endswith("wat") else 1)
    for codec in ("zstd", "lz4", "gzip"):
        packed = pa.compress(plain, codec=codec, asbytes=True)
        assert content(rows_of(warc, write(packed))) == expected
