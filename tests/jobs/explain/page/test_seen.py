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
