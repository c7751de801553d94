"""Every figure of an explanation has words for those who do not see it."""

from dposcope.jobs.explain.page.seen import seen
from dposcope.jobs.explain.results import pictures_of
from helpers.results import results


def test_every_figure_has_words_that_its_caption_has_not():
    made = results()
    words = seen(made)
    for picture in pictures_of(made):
        assert words[picture.name].endswith("."), picture.name
        assert len(words[picture.name]) > 20
        assert words[picture.name] not in picture.title
        assert any(letter.isdigit() for letter in words[picture.name]), picture.name


def test_words_are_of_the_rows_that_are_drawn():
    made = results()
    words, drawn = seen(made), {picture.name: picture.data["condition"].to_list() for picture in pictures_of(made)[-2:]}
    assert drawn.keys() == {"toxicity", "shares-of-reduction"}
    for row in made.conditions:
        for name, conditions in drawn.items():
            assert (f"{row.label} " in words[name]) == (row.name in conditions), (name, row.name)
