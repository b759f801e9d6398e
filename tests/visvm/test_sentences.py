"""Sentences: lossless, local, prefix-stable, and right on the cases that fool a full-stop rule."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from visvm import sentences as sentences_module
from visvm.sentences import SentenceScanner, _punkt_splits, first_sentence_end, split_sentences

PARTS = [
    *" \n.!?\"'()*-:;,1",
    *(
        "3.5",
        "No. 12",
        "e.g.",
        "1. ",
        "a) ",
        "Dr. ",
        "p.m.",
        "...",
        "…",
        "。",
        "！」",
        "“",
        "”",
        "\r\n",
        "\t",
    ),
    *(
        " The",
        " dog",
        " cat.",
        " A red car.",
        " sits",
        " He",
        "猫",
        ' 5"',
        "\n\n",
        " etc.",
        " car. B",
        "\u2028",
    ),
]
TEXT = st.one_of(st.lists(st.sampled_from(PARTS), max_size=25).map("".join), st.text(max_size=40))
MODE = st.sampled_from(["text", "visvm"])


@pytest.mark.parametrize(
    "sentences",
    [
        ["The pole is 3.5 meters tall.", " It is red."],
        ["He wears No. 12 on his shirt.", " He runs."],
        ["Is it red?", " No.", " It is blue."],
        ["Fruits, e.g. apples, are here.", " Nice."],
        ["1. A red car.", " 2. A dog."],
        ["Objects:\n\n", "1. A red car\n", "2.\nA dog.\n", "- a cat"],
        ['The sign reads "STOP." in red letters.', " A car waits."],
        ['The sign reads "Stop. Look. Listen." above the door.', " A car waits."],
        ["The sign reads “Stop. Look.” above.", " A car waits."],
        ['He says "Go."', " Then he leaves."],
        ["A man (in a coat.) stands.", " He waits."],
        ['A 5" screen is on.', " It is bright."],
        ["Dr. Smith is in St. Louis at 5 p.m. today.", " He sits."],
        ["There is a red car.", " Bananas lie in a bus.", " Toby holds my hand.", " 2 dogs"],
        ["Wait... what?!", " Really!!", " Yes"],
        ["It weighs 12.", " The rest is 3."],
        ["这是一只猫。", "它很大！", "狗"],
        ["A cat.", " A dog.\n \n", "  A bird"],
        ["**Car:** it is red.", " **Dog:** brown."],
        ["  \n A cat sits.", " It"],
    ],
)
def test_splits_where_a_reader_does(sentences):
    assert split_sentences("".join(sentences)) == sentences


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("A cat sits", None),
        ("A cat sits.", None),
        ("A cat sits. ", None),
        ("A cat sits. T", 11),
        ("It is 3.", None),
        ("It is 3. The", None),
        ("It is 3. The ", 8),
        ("A cat\n", None),
        ("A cat\n\n-", 7),
        ('It says "Go. Now', None),
        ('It says "Go. Now." to', None),
        ('It says "Go. Now." To', 18),
    ],
)
def test_closes_a_sentence_only_when_what_follows_confirms_it(text, end):
    assert first_sentence_end(text, final=False) == end


def test_a_complete_text_ends_its_last_sentence():
    assert first_sentence_end("A cat sits. ", final=True) == 12
    assert first_sentence_end("", final=True) == 0
    assert split_sentences("") == []
    assert split_sentences(" \n ") == [" \n "]


def test_a_stray_quotation_mark_holds_up_no_more_than_its_reach():
    text = 'It says "go. ' + "The cat sits here. " * 20
    assert first_sentence_end(text, final=False) == 12


def test_half_a_character_confirms_nothing():
    assert first_sentence_end("猫。\ufffd", final=False) is None
    assert first_sentence_end("猫。\ufffd", final=True) == 2


def test_the_published_rule_stops_at_every_full_stop():
    assert split_sentences("It is 3.5 m. Yes", mode="visvm") == ["It is 3.", "5 m.", " Yes"]


@settings(max_examples=400, deadline=None)
@given(TEXT, MODE)
def test_splitting_is_lossless_and_leaves_no_empty_sentence(text, mode):
    sentences = split_sentences(text, mode=mode)
    assert "".join(sentences) == text
    assert len(sentences) < 2 or all(sentence.strip() for sentence in sentences)


@settings(max_examples=400, deadline=None)
@given(TEXT, MODE)
def test_a_sentence_is_one_sentence(text, mode):
    for sentence in split_sentences(text, mode=mode):
        assert split_sentences(sentence, mode=mode) == [sentence]


@settings(max_examples=400, deadline=None)
@given(TEXT, MODE)
@example('a "b. C" d. E f. G', "text")
def test_a_closed_sentence_never_reopens(text, mode):
    ends = [first_sentence_end(text[:i], final=False, mode=mode) for i in range(len(text) + 1)]
    closed = [end for end in ends if end is not None]
    assert ends[len(ends) - len(closed) :] == closed, "once closed, it stays closed"
    assert all(end == first_sentence_end(text, final=True, mode=mode) for end in closed)


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT)
def test_what_follows_a_closed_sentence_does_not_matter(text, more):
    end = first_sentence_end(text, final=False)
    if end is not None:
        assert first_sentence_end(text + more, final=False) == end
        assert split_sentences(text + more) == [text[:end], *split_sentences(text[end:] + more)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["कुत्ता बैठा है।", " बिल्ली सो रही है॥", " एक कुर्सी"],
        ["کتا بیٹھا ہے۔", " بلی سو رہی ہے۔"],
        ["هل هذا كلب؟", " نعم إنه كلب.", " هو هنا!"],
        ["ውሻው ተቀምጧል።", "ድመቷ ተኝታለች፧", " አዎ።"],
        ["ခွေးထိုင်နေသည်။", "ကြောင်အိပ်နေသည်။"],
        ["ឆ្កែអង្គុយ។", " ឆ្មាដេក៕", " ឆ្កែ"],
        ["Շունը նստած է։", " Կատուն քնած է։"],
        ["图中有一只猫……", "它在睡觉。"],
        ["他说：“你好……”", "然后走了……。", "完"],
        ["これは猫である．", "高さは３．５メートルだ．", "大きい。"],
        ["Wait……and see.", " Done."],
        ["Le chien est assis.", " « Où est-il ? »", " Le chat dort."],
        ["« Vraiment\u202f?\u00a0»", " Oui !", " Non."],
        ["Er fragt: »Wo ist er?«", " Sie schweigt.", " »Da!«"],
        ["« Où est-il ? », dit-il.", " Rien."],
        ["Objects:\n", "1. a\n", "2. b\n", "- c"],
    ],
)
def test_marks_of_other_scripts_end_sentences(sentences):
    assert split_sentences("".join(sentences)) == sentences


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([*PARTS, "।", "……", " ?\u00a0»", "«", "．5", "؟"]), max_size=25), MODE)
def test_a_growing_text_closes_where_the_whole_text_does(pieces, mode):
    scanner, text = SentenceScanner(mode=mode), ""
    for piece in pieces:
        scanner.feed(piece)
        text += piece
        assert scanner.end() == first_sentence_end(text, final=False, mode=mode)
    assert scanner.end(final=True) == first_sentence_end(text, final=True, mode=mode)


LOOPS = [
    "a. ",
    "U.S. a ",
    "3.5 m. a ",
    "etc. and ",
    "... ",
    ' "x. ',
    "。",
    "。)",
    ".)",
    "1) ",
    " ",
    "\n",
    "x",
]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_work_is_linear_in_the_length_of_a_looping_text(loop, monkeypatch):
    """Counted in characters that patterns and Punkt are given, not by a clock."""
    work = [count_work(loop, repeats, monkeypatch) for repeats in (200, 400)]
    assert work[1] <= 2.2 * work[0] + 2000


def count_work(loop, repeats, monkeypatch):
    read = 0

    class Counting:
        """A pattern that counts what it may read: from where it starts to where it stops."""

        def __init__(self, pattern):
            self.pattern = pattern

        def __getattr__(self, name):
            def call(text, start=0, end=None):
                nonlocal read
                found = getattr(self.pattern, name)(text, start, len(text) if end is None else end)
                stop = found.end() if found and name != "finditer" else len(text) if end is None else end
                read += stop - start
                return found

            return call

    def counting_punkt(before, following):
        nonlocal read
        read += len(before) + len(following)
        return punkt(before, following)

    punkt = _punkt_splits
    with monkeypatch.context() as patch:
        for name in ("_GAP", "_WORD_CHARACTER", "_QUOTE", "_WORD"):
            patch.setattr(sentences_module, name, Counting(getattr(sentences_module, name)))
        patch.setattr(sentences_module, "_punkt_splits", counting_punkt)
        scanner = SentenceScanner()
        for piece in ["It is ", *[loop] * repeats]:
            scanner.feed(piece)
            scanner.end()
        split_sentences("It is " + loop * repeats)
    return read
