"""A series looks the same in every figure."""

from dposcope.report.figures import MOST_SERIES
from dposcope.report.series import series_styles


def test_a_name_has_its_style_in_any_company():
    alone = series_styles(["groups"])["groups"]
    assert series_styles(["learned", "groups", "least-squares"])["groups"] == alone
    assert series_styles(["a name of one's own"]) == series_styles(["a name of one's own"])


def test_series_of_one_figure_all_differ():
    names = [f"method {number}" for number in range(MOST_SERIES)]
    styles = series_styles(names)
    assert list(styles) == names
    assert len({one.colour for one in styles.values()}) == len({one.marker for one in styles.values()}) == MOST_SERIES


def test_more_names_than_styles_still_have_one():
    assert len(series_styles([str(number) for number in range(3 * MOST_SERIES)])) == 3 * MOST_SERIES
