"""The optional names stage: replacement with an analyzer that finds fixed names, and clear errors without the extra."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hostile import check_columns, hostile_texts

from pipeline.stage import Batch, StageError
from stages import pii_ner

PRESIDIO = importlib.util.find_spec("presidio_analyzer") is not None


class Names:
    """Finds the name Ada in place of a model, and Ada Lovelace with a better score."""

    def analyze(self, text: str, language: str, entities: list[str]) -> list[SimpleNamespace]:
        found = [(match, 0.6) for match in re.finditer("Ada", text)]
        found += [(match, 0.9) for match in re.finditer("Ada Lovelace", text)]
        return [SimpleNamespace(start=m.start(), end=m.end(), entity_type="PERSON", score=score) for m, score in found]


def run(texts: pa.Array, **params) -> dict[str, pa.Array]:
    return pii_ner.pii_ner(Batch({"text": texts}, len(texts)), pii_ner.PiiNer(**params), None)


def test_names_become_placeholders(monkeypatch):
    monkeypatch.setattr(pii_ner, "_analyzer", lambda model, language: Names())
    out = run(pa.array(["ä Ada Lovelace met Ada.", None, "nobody"]))
    assert out["text"].to_pylist() == ["ä <PERSON> met <PERSON>.", None, "nobody"]
    assert out["entities"].to_pylist() == [2, None, 0]
    assert out["spans"].to_pylist()[0][0] == {"start": 3, "end": 15, "type": "PERSON", "rule": "en_core_web_sm"}
    long = pa.array(["word " * 500 + "Ada " + "word " * 500])
    assert run(long, max_chars=1000)["entities"].to_pylist() == [1]
    texts = hostile_texts()
    out = run(texts)
    check_columns(out, len(texts))
    assert out["text"].to_pylist() == texts.to_pylist()


def test_pieces_cover_the_text():
    text = "ab cd\nefghij " * 300
    found = pii_ner.pieces(text, 1000)
    assert "".join(piece for _, piece in found) == text
    assert all(text[at : at + len(piece)] == piece and len(piece) <= 1000 for at, piece in found)


@pytest.mark.skipif(PRESIDIO, reason="presidio-analyzer is installed")
def test_without_the_extra_the_error_names_it():
    with pytest.raises(StageError, match=r"pip install tamis\[ner\]"):
        run(pa.array(["text"]))


@pytest.mark.skipif(not PRESIDIO, reason="presidio-analyzer, the extra tamis[ner], is not installed")
def test_presidio_with_a_blank_model(tmp_path):
    """No model to be had: a blank spaCy pipeline knows no names, so one of Presidio's pattern recognizers is asked."""
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    out = run(pa.array(["Mail ada@sample.org now."]), model=str(tmp_path / "blank"), entities=("EMAIL_ADDRESS",))
    assert out["text"].to_pylist() == ["Mail <EMAIL_ADDRESS> now."]
    with pytest.raises(StageError, match="no_such_model_sm"):
        run(pa.array(["text"]), model="no_such_model_sm")
    with pytest.raises(ValueError, match="pattern"):  # spaCy would import any package of that name
        run(pa.array(["text"]), model="antigravity")
