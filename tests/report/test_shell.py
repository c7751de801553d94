"""The style of all pages: what it names is defined, and the colours of groups can be told apart."""

import re
from importlib import resources
from itertools import combinations

import pytest

from helpers.colours import SEEN, difference

PACKAGE = resources.files("dposcope")
STYLES = [
    "report/templates/page.css",
    "report/browser/explained.css",
    "report/browser/browser.css",
    "jobs/reproduce/overview.css",
    "talk/web/talk.css",
]
SET_BY_SCRIPTS = {"share", "bar", "tint", "value"}
"""Lengths that scripts set on single elements."""


def style(name: str) -> str:
    return PACKAGE.joinpath(name).read_text(encoding="utf-8")


def palettes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", style(STYLES[0]), re.S)[:2]
    found = re.compile(r"--(fig-[\w-]+): (#[0-9a-f]{6})")
    return {"light": dict(found.findall(light)), "dark": dict(found.findall(light)) | dict(found.findall(dark))}


@pytest.mark.parametrize("name", STYLES)
def test_every_variable_that_is_used_is_defined(name):
    defined = set(re.findall(r"(--[\w-]+):", style(STYLES[0]))) | {f"--{one}" for one in SET_BY_SCRIPTS}
    assert set(re.findall(r"var\((--[\w-]+)", style(name))) <= defined


def test_all_styles_are_looked_at():
    found = PACKAGE.joinpath("report").rglob("*.css")  # type: ignore[attr-defined]
    assert {path.name for path in found} == {name.rsplit("/", 1)[1] for name in STYLES if name.startswith("report")}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("reader", list(SEEN))
def test_groups_can_be_told_apart_by_every_reader(theme, reader):
    colours = {name: palettes()[theme][f"fig-{name}"] for name in ("tp", "tn", "ap", "an")}
    near = {(a, b): difference(colours[a], colours[b], reader) for a, b in combinations(colours, 2)}
    assert min(near.values()) >= 20, near
