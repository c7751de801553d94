from xml.etree import ElementTree

import matplotlib as mpl
import polars as pl
import pytest
from matplotlib.figure import Figure

from dposcope.errors import DposcopeError
from dposcope.report.figures import Picture


def picture() -> Picture:
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    return Picture("figure-99-test", "T", figure, pl.DataFrame({"x": [1, 2], "y": [0.1, None]}))


def test_three_files_the_same_twice(tmp_path):
    before = dict(mpl.rcParams)
    for folder in ("a", "b"):
        picture().save(tmp_path / folder)
    names = [f"figure-99-test.{ending}" for ending in ("csv", "png", "svg")]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert dict(mpl.rcParams) == before


def test_each_file_is_what_its_ending_says(tmp_path):
    picture().save(tmp_path)
    assert (tmp_path / "figure-99-test.csv").read_text("utf-8") == "x,y\n1,0.1\n2,\n"
    assert (tmp_path / "figure-99-test.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(tmp_path / "figure-99-test.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DposcopeError, match="cannot write"):
        picture().save(tmp_path / "file")
