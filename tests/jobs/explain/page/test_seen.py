"""Every figure of an explanation has words for those who do not see it."""

import re
from dataclasses import replace

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


def test_words_name_no_block_without_an_mlp():
    made = results()
    layers = made.explanation.layers
    last = len(layers.reduction) - 1
    without = replace(layers, without=frozenset(range(last)))
    words = seen(replace(made, explanation=replace(made.explanation, layers=without)))
    for name in ("figure-05-balance", "figure-08-groups-by-block"):
        told = {int(block) for block in re.findall(r"block (\d+)", words[name])}
        assert told == {last}, name
