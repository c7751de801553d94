"""Offensive words stand here in rot13, as in the package."""

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.data.masking import contains_offensive, mask_offensive, read_encoded


def entries(*levels: str) -> list[str]:
    """The word list read naively: compounds without their bar."""
    found: list[str] = []
    wanted = False
    for line in resources.files("dposcope.data").joinpath("wordlist.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            wanted = line.strip("[]").split()[0] in levels
        elif wanted and line and not line.startswith("#"):
            found.append(read_encoded(line).replace("|", ""))
    return found


def words_of(text: str) -> list[str]:
    return [read_encoded(word) for word in text.split()]


@pytest.mark.parametrize(
    ("encoded", "shown"),
    [
        ("shpx", "f*ck"),
        ("Shpxvat", "F*cking"),
        ("FUVG", "SH*T"),
        ("zbgureshpxre", "motherf*cker"),
        ("ohyyfuvg", "bullsh*t"),
        ("tbqqnza", "godd*mn"),
        ("penccl", "cr*ppy"),
        ("ovgpurf", "b*tches"),
        ("nff", "a**"),
        ("nffubyr", "a**hole"),
        ("nefr", "a**e"),
        ("qhzonff", "dumba**"),
        ("fuvggl", "sh*tty"),
        ("zbgures", "m*therf"),
        ("anmv", "nazi"),
        ("avttre", "n*****"),
        ("avttref", "n*****s"),
        ("ergneqrq", "r*****ed"),
        ("fcvpf", "s****"),
    ],
)
def test_it_is_shown_as_in_the_paper(encoded, shown):
    assert mask_offensive(read_encoded(encoded)) == shown


def test_text_around_it_stays_to_the_letter():
    text = read_encoded("Jung gur uryy, lbh shpxvat vqvbg: ab “penc”, “uryyb”!")
    assert mask_offensive(text) == "What the hell, you f*cking idiot: no “cr*p”, “hello”!"


@pytest.mark.parametrize(
    "template", ["▁{}", "Ġ{}", " {}", "{}.", "_{}_", "({})", "{}Ċ", "*{}*", "“{}”", "2{}4", "{}'s"]
)
def test_a_token_of_any_tokenizer_is_seen(template):
    for word in words_of("ovgpu nff FUVG Pbpx"):
        token = template.format(word)
        assert contains_offensive(token)
        assert mask_offensive(token).count("*") > token.count("*")


@pytest.mark.parametrize("text", ["stupid", "Stupidity", "you idiots", "▁moron", "DUMB", "what a jerk", "Shut up!"])
def test_mild_words_are_judged_but_shown(text):
    assert contains_offensive(text)
    assert mask_offensive(text) == text


INNOCENT = """
    class classes assess assassin asset passage Massachusetts embassy bass grass ambassador glasses assembly
    cockpit cocktail peacock Hancock cockatoo cockroach shuttlecock Hitchcock Dickens Dickinson dictionary
    Sussex Essex Middlesex Scunthorpe Penistone analysis analyst cumulative cucumber document circumference Cummings
    grape drape therapist therapists rapeseed scrape trapeze shiitake Yamashita Kinoshita Matsushita Harshit shift
    hello shell scrap scraping crape scrapped raccoon tycoon cocoon coonskin snigger niggardly Nigel
    Niger Nigeria night retardant retardation title titan petition constitution entitled Titus competition
    Wankel Wankhede swank Pissarro Pissarides Mississippi bastion button buttress Arsenal parse sparse arsenic
    prickly pricked pussycat octopus dike homogeneous homology Homer spice spices despicable auspicious
    Fagin Japan Japanese Pakistan Dagobert figure fuchsia Fukushima fucose damage adamant Amsterdam Rotterdam
    psychology psychological foolproof suction sympathetic apathetic Moroni oxymoron idiotype dumbbell jerky
    Slutsk puttanesca Godambe twain Matsumoto boobook sapphire Hellenic Michelle shellac tittle strontium
"""


def test_innocent_words_are_left_alone():
    assert [word for word in INNOCENT.split() if contains_offensive(word)] == []
    assert mask_offensive(INNOCENT) == INNOCENT


@pytest.mark.parametrize(
    "phrase",
    ["magna cum laude", "Homo sapiens", "a chink in the armour", "Maine Coon cats", "Moby-Dick", "oilseed rape"],
)
def test_innocent_phrases_are_left_alone(phrase):
    assert not contains_offensive(phrase)


def test_an_innocent_word_does_not_excuse_its_neighbour():
    text = f"Yamashita {read_encoded('fuvg')}"
    assert mask_offensive(text) == "Yamashita sh*t"


def test_every_listed_word_is_judged_and_masked_as_its_level_says():
    for word in entries("slur", "strong", "mild"):
        assert contains_offensive(word), read_encoded(word)
    for word in entries("mild"):
        assert mask_offensive(word) == word
    for word in entries("slur"):
        assert mask_offensive(word) == word[0] + "*" * (len(word) - 1), read_encoded(word)
    for word in entries("slur", "strong"):
        shown = mask_offensive(word)
        assert "*" in shown[1:], read_encoded(word)
        assert mask_offensive(shown) == shown, read_encoded(word)


def test_every_innocent_entry_is_needed_and_works():
    listed = entries("slur", "strong", "mild")
    for entry in entries("innocent"):
        assert any(word in entry for word in listed), entry
        assert not contains_offensive(entry), entry


def test_no_word_stands_in_the_clear():
    raw = resources.files("dposcope.data").joinpath("wordlist.txt").read_text("utf-8")
    assert "rot13" in raw.splitlines()[0]
    body = "\n".join(line for line in raw.splitlines() if not line.startswith(("#", "[")))
    assert not contains_offensive(body)


def test_no_entry_stands_twice():
    listed = entries("slur", "strong", "mild", "innocent")
    assert len(listed) == len(set(listed))


def test_letters_whose_lower_case_is_longer_do_not_shift_the_stars():
    assert mask_offensive(f"İİİ {read_encoded('fuvg')}") == "İİİ sh*t"


PARTS = [*words_of("shpx fuvg nff zbgures ohyyfu avttre ubzr pynff"), " ", "*", "İ", "Ġ", "s", "d"]


@given(st.lists(st.sampled_from(PARTS)))
def test_masking_keeps_the_length_and_is_done_once(parts):
    text = "".join(parts)
    shown = mask_offensive(text)
    assert len(shown) == len(text)
    assert mask_offensive(shown) == shown
    assert all(b in (a, "*") for a, b in zip(text, shown, strict=True))


@given(st.text())
def test_any_text_is_taken(text):
    assert contains_offensive(text) or mask_offensive(text) == text
