"""Gopher, C4 and FineWeb statistics and rules: golden vectors worked out by hand."""

import pyarrow as pa
import pytest
from heuristics import PARAMS, kept, run, variants
from hostile import big, check_columns, hostile_texts

from pipeline.stage import Batch, stage_types
from stages.gopher_quality import GopherQuality


def footer_document(copies: int) -> str:
    """79 different words of 4 or 5 letters, cut by `copies` of a footer of nine words between two marks."""
    footer = ["|", "about", "contact", "sitemap", "press", "privacy", "help", "home", "legal", "terms", "|"]
    body = [f"{k:05d}" if k < 38 else f"{k:04d}" for k in range(79)]
    step = len(body) // copies
    pieces = [body[k * step : (k + 1) * step if k < copies - 1 else None] + footer for k in range(copies)]
    return " ".join(word for piece in pieces for word in piece)


@pytest.mark.parametrize(
    ("copies", "variant", "dup_5gram", "dup_10gram"),
    [
        (2, "datatrove", 0.090, 0.090),  # the second copy, ten words of it, / len(text)
        (2, "dolma", 0.166, 0.048),
        (2, "paper", 0.224, 0.224),  # both copies over the characters of the words
        (3, "datatrove", 0.162, 0.162),
        (3, "dolma", 0.223, 0.064),
        (3, "paper", 0.302, 0.302),
    ],
)
def test_a_repeated_footer_is_counted_once_all_or_by_mass(copies, variant, dup_5gram, dup_10gram):
    """One document of 101 words, three definitions: kept by one, dropped by the others (limits .15 and .10)."""
    text = footer_document(copies)
    assert len(text.split()) == 79 + 11 * copies
    row = run("gopher_repetition", [text], variant=variant)[0]
    assert (round(row["dup_5gram"], 3), round(row["dup_10gram"], 3)) == (dup_5gram, dup_10gram)


def test_dclm_counts_words_that_start_with_a_letter_or_digit():
    """The same document: without its two marks the footer is nine words, too short for a 10-gram."""
    row = run("gopher_repetition", [footer_document(2)], variant="dclm")[0]
    assert row["dup_5gram"] == pytest.approx(2 * 49 / (38 * 5 + 41 * 4 + 2 * 49))
    assert row["dup_10gram"] == 0
    text = "can't stop 3.14 - can't, stop: 3.14 (x_1)"  # can't stop 3.14 can't stop 3.14 x_1
    row = run("gopher_repetition", [text], variant="dclm")[0]
    assert (row["top_2gram"], row["top_3gram"]) == (18 / 29, 26 / 29)
    assert run("gopher_repetition", [text])[0]["top_2gram"] == 0


def test_three_copies_of_a_line_among_ten():
    text = "\n".join(["same"] * 3 + [f"ln {k}" for k in range(7)])
    assert run("gopher_repetition", [text])[0]["dup_line_frac"] == 0.3
    assert run("gopher_repetition", [text], variant="dolma")[0]["dup_line_frac"] == 0.3
    assert "dup_line_frac_max" not in kept("gopher_repetition", text)  # exactly .30 is kept


def test_three_copies_of_a_line_among_ten_elsewhere():
    text = "\n".join(["same"] * 3 + [f"ln {k}" for k in range(7)])
    assert run("gopher_repetition", [text], variant="datatrove")[0]["dup_line_frac"] == 0.2
    assert run("gopher_repetition", [text], variant="dclm")[0]["dup_line_frac"] == 0.3


def test_gopher_repetition_by_hand():
    # words a b a b a b c: 7 characters; ab three times, aba twice, abab twice, no 5-gram repeats
    row = run("gopher_repetition", ["a b a b a b c"])[0]
    assert (row["top_2gram"], row["top_3gram"], row["top_4gram"]) == (6 / 7, 6 / 7, 8 / 7)
    assert row["dup_5gram"] == 0
    # nothing repeats: 0 in the paper's reading, the first pair in dolma's; a 4-gram there is not
    row = run("gopher_repetition", ["aa bb cc"], variant="dolma")[0]
    assert (row["top_2gram"], row["top_4gram"], row["dup_5gram"]) == (4 / 6, None, None)
    row = run("gopher_repetition", ["aa bb cc"])[0]
    assert (row["top_2gram"], row["top_4gram"], row["dup_5gram"]) == (0, 0, 0)
    # blank lines are duplicates of each other for dolma only
    lines = [run("gopher_repetition", ["a\n\n\nb"], variant=v)[0]["dup_line_frac"] for v in ("paper", "dolma")]
    assert lines == [0, 0.5]


def test_gopher_repetition_datatrove_by_hand():
    row = run("gopher_repetition", ["a b a b a b c"], variant="datatrove")[0]
    assert (row["top_2gram"], row["top_3gram"]) == (9 / 13, 10 / 13)
    row = run("gopher_repetition", ["aa bb cc"], variant="datatrove")[0]
    assert (row["top_2gram"], row["top_4gram"], row["dup_5gram"]) == (5 / 8, None, 0)
    # tokens, not words: "it 's it 's" holds the pair twice
    assert run("gopher_repetition", ["it's it's"], variant="datatrove")[0]["top_2gram"] == 10 / 9
    assert run("gopher_repetition", ["a\n\n\nb"], variant="datatrove")[0]["dup_line_frac"] == 0


def test_gopher_quality_by_hand():
    text = "- the cat and the dog ...\n\n# of 12 things…\n  * be #"
    row = run("gopher_quality", [text])[0]
    # words: - the cat and the dog ... # of 12 things… * be #  (14); three lines are not blank
    assert row["words"] == 14
    assert row["mean_word_length"] == pytest.approx((1 + 3 + 3 + 3 + 3 + 3 + 3 + 1 + 2 + 2 + 7 + 1 + 2 + 1) / 14)
    assert row["median_word_length"] == 2.5
    assert row["symbol_ratio"] == 2 / 14  # two hashes, two ellipses: each alone
    assert (row["bullet_lines"], row["ellipsis_lines"]) == (2 / 3, 2 / 3)
    assert row["alpha_words"] == 8 / 14
    assert row["stop_words"] == 4  # the (twice), and, of, be
    row = run("gopher_quality", [text], variant="dclm")[0]
    assert (row["words"], row["symbol_ratio"]) == (9, 4 / 14)  # not: - ... # * #; all symbols together
    assert (row["bullet_lines"], row["ellipsis_lines"], row["stop_words"]) == (2 / 3, 2 / 3, 5)
    row = run("gopher_quality", [text], variant="dolma")[0]
    assert row["symbol_ratio"] == 3 / 14  # "#", "things…", "#"
    assert (row["bullet_lines"], row["ellipsis_lines"]) == (1 / 4, 1 / 4)
    assert row["stop_words"] == 5


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("the cat and dog " * 12 + "one two", []),
        ("the cat and dog " * 12 + "one", ["words_min"]),
        ("the cats and dogs " * 12 + "one two # # # # # #", ["symbol_ratio_max"]),
        ("cat dog " * 30, ["stop_words_min"]),
        ("a b c the of " * 20, ["mean_word_length_min"]),
        ("-cats and the dogs run\n" * 20, ["bullet_lines_max"]),
        ("the of cats 12 13 " * 10, ["alpha_words_min", "mean_word_length_min"]),
        ("", ["words_min", "stop_words_min"]),  # counts are 0, ratios are null and break no rule
    ],
)
def test_gopher_quality_rules(text, broken):
    assert sorted(kept("gopher_quality", text)) == sorted(broken)


def test_gopher_quality_datatrove_by_hand():
    text = "- the cat can't see the dog ...\n\n# of 12 things…\n  • Be of #1"
    row = run("gopher_quality", [text], variant="datatrove")[0]
    # tokens: - the cat ca n't see the dog ... # of 12 things … • Be of # 1 (19); symbols alone: - ... # … #, not •
    assert (row["words"], row["stop_words"]) == (14, 2)
    assert row["mean_word_length"] == pytest.approx((3 + 3 + 2 + 3 + 3 + 3 + 3 + 2 + 2 + 6 + 1 + 2 + 2 + 1) / 14)
    assert (row["symbol_ratio"], row["alpha_words"]) == (2 / 19, 11 / 19)
    assert (row["bullet_lines"], row["ellipsis_lines"]) == (2 / 4, 2 / 4)  # the blank line counts


def test_dclm_lower_cases_stop_words_and_sees_spaced_ellipses():
    row = run("gopher_quality", ["THE Of and . . .\nx . . ."], variant="dclm")[0]
    assert (row["stop_words"], row["symbol_ratio"], row["ellipsis_lines"]) == (3, 2 / 10, 1)
    assert run("gopher_quality", ["THE Of and"], variant="dolma")[0]["stop_words"] == 1


def test_stop_words_of_the_documents_own_language():
    lists = {"en": ["the", "of"], "de": ["der", "und", "für"], "zh": ["的"], "fr": ["aujourd'hui"]}
    texts = ["the und of", "der und für", "的 x 的", "the of", "aujourd'hui", "the"]
    codes = ["en", "de", "zh", "sv", "fr", None]
    rows = run("gopher_quality", texts, {"langid.language": codes}, by="langid.language", stop_words=lists)
    assert [row["stop_words"] for row in rows] == [2, 3, 1, None, 1, None]
    rows = run("gopher_quality", texts, {"langid.language": codes}, by="langid.language", stop_words=lists,
               variant="dolma")  # fmt: skip
    assert [row["stop_words"] for row in rows] == [2, 3, 2, None, 1, None]
    assert run("gopher_quality", ["FÜR der"], language="de", stop_words=lists)[0]["stop_words"] == 1
    assert run("gopher_quality", ["FÜR der"], language="de", stop_words=lists, variant="dclm")[0]["stop_words"] == 2
    kind = stage_types()["gopher_quality"]
    params = GopherQuality(by="langid.language", stop_words=lists)
    assert kind.reads(params) == ("text", "langid.language")
    assert kind.languages(params) == ("langid.language", ("de", "en", "fr", "zh"))
    assert kind.languages(GopherQuality()) == ("", ("en",))
    assert stage_types()["c4"].languages(None) == ("", ("en",))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"language": "de"}, r"expected stop words of 'de', found those of \['en'\]"),
        ({"stop_words": {"en": ["of the"]}}, "expected words without white space"),
        ({"stop_words": {"en": [""]}}, "expected words without white space"),
    ],
)
def test_unusable_stop_words_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        GopherQuality(**params)


def test_a_ratio_on_the_threshold_is_decided_exactly():
    words = "the of " + "word " * 43 + "# # # # #"  # 5 of 50 words are hashes: .1 is allowed
    assert run("gopher_quality", [words])[0]["symbol_ratio"] == 0.1
    assert kept("gopher_quality", words) == []


def test_c4_by_hand():
    text = (
        "Home | About\r\n"
        'She said: "this line is kept [1] as it is."\n'
        "\n"
        "This line ends in an ellipsis so it goes...\n"
        "Only three words.\n"
        "Please enable JavaScript to see this page now.\n"
        "By reading on you accept our Privacy Policy today.\n"
        "A second good line, from 1999. It has two sentences![citation needed]\u2028"
        "A third one stands behind a line separator."
    )
    row = run("c4", [text])[0]
    assert row["text"] == (
        'She said: "this line is kept  as it is."\n'
        "A second good line, from 1999. It has two sentences!\nA third one stands behind a line separator."
    )
    assert (row["lines_removed"], row["sentences"], row["curly"], row["lorem_ipsum"]) == (5, 4, 0, 0)
    assert row["chars_removed"] == len(text) - len(row["text"])
    cuts = [text.encode()[span["start"] : span["end"]].decode() for span in row["removed"]]
    assert cuts[:3] == ["Home | About", "[1]", "This line ends in an ellipsis so it goes..."]
    assert cuts[-1] == "[citation needed]"
    assert kept("c4", text) == []


def test_c4_rules_and_variants():
    assert kept("c4", "One two three four five.\nOne two three four five.") == ["sentences_min"]
    assert kept("c4", "Lorem ipsum dolor sit amet. Then more. And more.") == ["lorem_ipsum"]
    assert kept("c4", "A line with { a bracket. Then more of it. And more.") == ["curly"]
    assert kept("c4", "An { unfinished line\nA good line of words. And more. And more.") == []
    texts = ["It's three words'", "[1] [2] three words [3] here."]
    assert [r["text"] for r in run("c4", texts)] == ["", ""]
    assert run("c4", ["y" * 1001 + " one two three four."])[0]["text"] == ""
    assert run("c4", ["y" * 1000 + " one two three four."])[0]["lines_removed"] == 0


def test_c4_datatrove_by_hand():
    texts = ["It's three words'", "[1] [2] three words [3] here."]
    assert [r["text"] for r in run("c4", texts, variant="datatrove")] == ["It's three words'", "three words  here."]
    row = run("c4", ["A heading without mark\nTwo words"], variant="datatrove", terminal_punctuation=False)[0]
    assert (row["text"], row["sentences"]) == ("A heading without mark", 1)
    lines = "One, two. Three, four! J. Smith (the 3rd.) said so.\nIs it so? Wait!? What?! Yes...no."
    # spaCy's sentencizer: J. is one token, a full stop before a bracket ends the sentence after it
    assert run("c4", [lines], variant="datatrove")[0]["sentences"] == 4 + 4
    assert kept("c4", lines, variant="datatrove") == []
    assert kept("c4", "Only this one. And that one.", variant="datatrove") == ["sentences_min"]


def test_fineweb_by_hand():
    text = "A long line that ends with a full stop, as it should.\nshort\nshort\n\n" + "z" * 30
    row = run("fineweb", [text])[0]
    assert row["line_punct_ratio"] == 1 / 5
    assert row["short_line_ratio"] == 3 / 5
    assert row["char_dup_ratio"] == 5 / (53 + 5 + 5 + 30)
    assert row["list_ratio"] == 4 / 15
    assert kept("fineweb", text) == []
    assert kept("fineweb", "") == []  # null: no rule applies


def test_fineweb_code_by_hand():
    text = "A long line that ends with a full stop, as it should.\nshort\nshort\n\n" + "z" * 30
    row = run("fineweb", [text], variant="code")[0]
    assert (row["line_punct_ratio"], row["short_line_ratio"]) == (1 / 4, 3 / 4)  # four lines are not blank
    assert row["list_ratio"] == 4 / 17  # the comma and the full stop are tokens
    assert kept("fineweb", text, variant="code") == ["short_line_ratio_max", "char_dup_ratio_max"]
    marks = "quoted'\nquoted\"\n中文。\nहिन्दी।"
    assert run("fineweb", [marks], variant="code")[0]["line_punct_ratio"] == 2 / 4
    assert run("fineweb", [marks])[0]["line_punct_ratio"] == 2 / 4  # the other two


@pytest.mark.parametrize(("stage", "params"), variants())
def test_undefined_is_null(stage, params):
    """Without words or lines there is no ratio; counts are 0."""
    counts = {"words", "stop_words", "lines_removed", "chars_removed", "sentences", "curly", "lorem_ipsum"}
    row = run(stage, [""], **params)[0]
    assert {name: value for name, value in row.items() if name in counts} == dict.fromkeys(counts & row.keys(), 0)
    assert {value for name, value in row.items() if name not in counts | {"text", "removed"}} <= {None}


@pytest.mark.parametrize(("stage", "params"), variants())
def test_hostile_texts(stage, params):
    """A row for each, nothing that is not finite, and the same as for the document alone."""
    texts = hostile_texts()
    kind, chosen = stage_types()[stage], PARAMS[stage](**params)
    columns = kind.run(Batch({"text": texts}, len(texts)), chosen, None)
    check_columns(columns, len(texts))
    for row, text in enumerate(texts):
        alone = kind.run(Batch({"text": pa.array([text], pa.string())}, 1), chosen, None)
        for name in columns:
            assert columns[name][row] == alone[name][0] or not columns[name][row].is_valid, (name, row)
            assert columns[name][row].is_valid == alone[name][0].is_valid


@pytest.mark.parametrize(("stage", "params"), variants())
def test_a_document_of_20_megabytes(stage, params):
    text = big(20_000_000)
    row = run(stage, [text], **params)[0]
    if stage == "gopher_quality":
        assert row["mean_word_length"] == pytest.approx(3.6, abs=0.6)
        assert row["stop_words"] >= 2
    elif stage == "c4":
        assert row["lines_removed"] <= 1  # the last line is cut off
        assert row["sentences"] == pytest.approx(text.count("\n"), abs=1)
    else:
        assert all(value is not None and 0 <= value <= 1.5 for value in row.values() if isinstance(value, float))
