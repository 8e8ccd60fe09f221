"""Language identification with the real lid.176."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hostile import HOSTILE, big, check_columns, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stage import Batch, Rule, StageError, stage_types
from stages.assets import wheel_file
from stages.langid import LID_176, LangidParams, langid

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXTS = [
    "The quick brown fox jumps over the lazy dog and runs away.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le renard brun rapide saute par-dessus le chien paresseux.",
    "素早い茶色の狐がのろまな犬を飛び越える",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку",
]


def run(texts, **params):
    return langid(Batch({"text": pa.array(texts, pa.string())}, len(texts)), LangidParams(**params), None)


def test_labels_scores_and_types():
    out = run(TEXTS)
    assert out["language"].to_pylist() == ["en", "de", "fr", "ja", "ru"]
    for item in stage_types()["langid"].adds:
        assert out[item.name].type == item.type
    scores = np.asarray(out["score"])
    assert ((scores > 0.65) & (scores <= 1)).all()
    for label, score, top in zip(
        out["language"].to_pylist(), out["score"].to_pylist(), out["top3"].to_pylist(), strict=True
    ):
        assert top[0] == {"label": label, "score": score}
        assert [entry["score"] for entry in top] == sorted((entry["score"] for entry in top), reverse=True)


def test_nulls_and_empty_batches():
    out = run([TEXTS[0], None, "", TEXTS[1], None])
    assert out["language"].to_pylist() == ["en", None, None, "de", None]
    assert out["score"].is_null().to_pylist() == [False, True, True, False, True]
    assert [top and len(top) for top in out["top3"].to_pylist()] == [3, None, None, 3, None]
    assert all(len(array) == 0 for array in run([]).values())


def test_a_text_with_hardly_a_letter_gets_null():
    texts = ["12 000 !?", "a b", "abc", "ab1c", "क्षि", "日本語", "\n\n", "ab\u0301c"]
    letters = [sum(c.isalpha() for c in text) for text in texts]
    for minimum in (1, 3):
        found = run(texts, min_letters=minimum)
        assert [value is not None for value in found["language"].to_pylist()] == [n >= minimum for n in letters]
        assert found["language"].is_null().equals(found["top3"].is_null())
    assert run(["", "..."], min_letters=0)["language"].null_count == 0
    assert run(["." * 10 + "abc"], max_bytes=11)["language"].to_pylist() == [None]  # the second letter is not seen


def test_hostile_texts():
    texts = hostile_texts()
    out = run(texts.to_pylist())
    check_columns(out, len(texts))
    label = dict(zip(HOSTILE, out["language"].to_pylist(), strict=False))
    assert {name for name in HOSTILE if label[name] is None} == {
        "empty", "space", "newlines", "one_letter", "punctuation", "dots", "digits", "emoji", "brackets", "private_use",
    }  # fmt: skip
    score = out["score"].drop_null()
    assert 0 <= pc.min(score).as_py() <= pc.max(score).as_py() <= 1


def test_a_document_of_100_mb_costs_its_first_bytes():
    text = big()
    assert run([text])["top3"].equals(run([text[:50_000]])["top3"])


def test_duckdb_queries_the_runners_up(tmp_path):
    import duckdb

    pq.write_table(pa.table(run([*TEXTS, ""])), tmp_path / "x.parquet")
    query = f"select top3[2].label, top3[1].score = score from '{tmp_path}/x.parquet' where top3[1].label = 'de'"
    ((second, same),) = duckdb.sql(query).fetchall()
    assert isinstance(second, str)
    assert same
    every = f"select count(*) from (select unnest(top3) as t from '{tmp_path}/x.parquet') where t.score > 0.5"
    assert duckdb.sql(every).fetchall() == [(5,)]


def test_newlines_and_end_tokens_hide_nothing():
    plain = run(["Hello " + TEXTS[1]])
    for separator in ("\n", " </s> ", "\r\n\t"):
        assert run([f"Hello{separator}{TEXTS[1]}"])["top3"].equals(plain["top3"])


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=8))
@settings(deadline=None, max_examples=50)
def test_batch_equals_one_by_one(texts):
    out = run(texts, min_letters=0)
    for i, text in enumerate(texts):
        alone = run([text], min_letters=0)
        assert all(alone[name][0].as_py() == out[name][i].as_py() for name in out)


def test_only_the_first_bytes_count():
    assert run([TEXTS[0] + TEXTS[1] * 50], max_bytes=len(TEXTS[0]))["language"].to_pylist() == ["en"]


def test_rules():
    rules = stage_types()["langid"].rules
    assert rules(LangidParams()) == [Rule("score", ">=", 0.65, "score_min")]
    assert rules(LangidParams(languages=["en", "de"]))[0] == Rule("language", "in", ("en", "de"), "language")


def test_any_model_by_path(tmp_path):
    published = wheel_file(*LID_176)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert digest == "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
    for pin in ({}, {"sha256": digest}):
        assert run(TEXTS, model=str(published), **pin)["top3"].equals(run(TEXTS)["top3"])
    identity = stage_types()["langid"].identity
    assert (identity(LangidParams()), identity(LangidParams(model=str(published)))) == ("", digest)
    with pytest.raises(StageError, match=r"expected SHA-256 0{64}, found 8f34"):
        run(TEXTS, model=str(published), sha256="0" * 64)
    for absent in (tmp_path / "none.bin", "lid.999"):
        with pytest.raises(StageError, match=r"expected a fastText model file at .*, found none"):
            run(TEXTS, model=str(absent))


def test_labels_with_script_are_kept_or_renamed(tmp_path):
    import fasttext

    lines = [f"__label__{label} {text}\n" for label, text in zip(["eng_Latn", "deu_Latn"], TEXTS, strict=False)] * 20
    (tmp_path / "train.txt").write_text("".join(lines))
    model = fasttext.train_supervised(
        str(tmp_path / "train.txt"), dim=4, minn=2, maxn=3, bucket=500, epoch=50, lr=0.5, thread=1, verbose=0
    )
    model.save_model(str(tmp_path / "own.bin"))
    out = run(TEXTS[:2], model=str(tmp_path / "own.bin"))
    assert out["language"].to_pylist() == ["eng_Latn", "deu_Latn"]
    assert [len(top) for top in out["top3"].to_pylist()] == [2, 2]  # the model has no third
    out = run(TEXTS[:2], model=str(tmp_path / "own.bin"), rename={"eng_Latn": "en"})
    assert out["language"].to_pylist() == ["en", "deu_Latn"]
    assert {row["label"] for row in out["top3"].to_pylist()[1]} == {"en", "deu_Latn"}
    with pytest.raises(StageError, match=r"expected labels of .*deu_Latn.*, found fra_Latn"):
        run(TEXTS, model=str(tmp_path / "own.bin"), rename={"fra_Latn": "fr"})


def test_loading_prints_nothing(capfd):
    from stages.langid import _model

    _model.cache_clear()
    run(TEXTS)
    assert capfd.readouterr() == ("", "")


def test_gold_sentences():
    path = SHARED / "data/langid/langid_gold.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    table = pq.read_table(path)
    table = table.filter(pc.equal(table["kind"], "sentence")).combine_chunks()
    table = table.take(pa.array(np.arange(0, len(table), 9)))
    label = run(table["text"].to_pylist())["language"]
    right = pc.equal(label, pc.if_else(pc.equal(table["lang"], "nb"), "no", table["lang"]).combine_chunks())
    assert 0.77 < pc.mean(right).as_py() < 0.82  # 0.795 on all 37,071
