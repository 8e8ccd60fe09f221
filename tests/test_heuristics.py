"""Gopher, C4 and FineWeb statistics and rules: golden vectors worked out by hand."""

import pytest
from heuristics import kept, run


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
        (2, "datatrove_split", 0.090, 0.090),  # the second copy, ten words of it, over len(text)
        (2, "dolma", 0.166, 0.048),
        (2, "paper", 0.224, 0.224),  # both copies over the characters of the words
        (3, "datatrove_split", 0.162, 0.162),
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


def test_three_copies_of_a_line_among_ten():
    text = "\n".join(["same"] * 3 + [f"ln {k}" for k in range(7)])
    assert run("gopher_repetition", [text])[0]["dup_line_frac"] == 0.3
    assert run("gopher_repetition", [text], variant="dolma")[0]["dup_line_frac"] == 0.3
    assert run("gopher_repetition", [text], variant="datatrove_split")[0]["dup_line_frac"] == 0.2
    assert "dup_line_frac_max" not in kept("gopher_repetition", text)  # exactly .30 is kept


def test_gopher_repetition_by_hand():
    # words a b a b a b c: 7 characters in 13; ab three times, aba twice, abab twice, no 5-gram repeats
    row = run("gopher_repetition", ["a b a b a b c"])[0]
    assert (row["top_2gram"], row["top_3gram"], row["top_4gram"]) == (6 / 7, 6 / 7, 8 / 7)
    assert row["dup_5gram"] == 0
    row = run("gopher_repetition", ["a b a b a b c"], variant="datatrove_split")[0]
    assert (row["top_2gram"], row["top_3gram"]) == (9 / 13, 10 / 13)
    variants = ("paper", "dolma", "datatrove_split")
    # nothing repeats: 0 in the paper's reading, the first pair in the others
    tops = [run("gopher_repetition", ["aa bb cc"], variant=variant)[0]["top_2gram"] for variant in variants]
    assert tops == [0, 4 / 6, 5 / 8]
    # blank lines are duplicates of each other for dolma only
    lines = [run("gopher_repetition", ["a\n\n\nb"], variant=variant)[0]["dup_line_frac"] for variant in variants]
    assert lines == [0, 0.5, 0]


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
        ("", ["words_min", "mean_word_length_min", "alpha_words_min", "stop_words_min"]),
    ],
)
def test_gopher_quality_rules(text, broken):
    assert sorted(kept("gopher_quality", text)) == sorted(broken)


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
    assert kept("c4", text, variant="datatrove") == []  # three words are enough there: five sentences


def test_c4_rules_and_variants():
    assert kept("c4", "One two three four five.\nOne two three four five.") == ["sentences_min"]
    assert kept("c4", "Lorem ipsum dolor sit amet. Then more. And more.") == ["lorem_ipsum"]
    assert kept("c4", "A line with { a bracket. Then more of it. And more.") == ["curly"]
    assert kept("c4", "An { unfinished line\nA good line of words. And more. And more.") == []
    texts = ["It's three words'", "[1] [2] three words [3] here."]
    assert [r["text"] for r in run("c4", texts)] == ["", ""]
    assert [r["text"] for r in run("c4", texts, variant="datatrove")] == ["It's three words'", "three words  here."]
    row = run("c4", ["A heading without mark\nTwo words"], variant="datatrove", terminal_punctuation=False)[0]
    assert (row["text"], row["sentences"]) == ("A heading without mark", 1)
    assert run("c4", ["y" * 1001 + " one two three four."])[0]["text"] == ""
    assert run("c4", ["y" * 1000 + " one two three four."])[0]["lines_removed"] == 0


def test_fineweb_by_hand():
    text = "A long line that ends with a full stop, as it should.\nshort\nshort\n\n" + "z" * 30
    row = run("fineweb", [text])[0]
    assert row["line_punct_ratio"] == 1 / 5
    assert row["short_line_ratio"] == 3 / 5
    assert row["char_dup_ratio"] == 5 / (53 + 5 + 5 + 30)
    assert row["list_ratio"] == 4 / 15
    assert run("fineweb", [text], variant="code")[0]["short_line_ratio"] == 4 / 5
    assert kept("fineweb", text) == []
    assert kept("fineweb", text, variant="code") == ["short_line_ratio_max", "char_dup_ratio_max"]
    assert kept("fineweb", "") == ["line_punct_ratio_min", "short_line_ratio_max"]
