"""The pages of the library: they have what can be imported, all of it, once, and every type that comes back from it."""

import functools
import inspect
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dposcope as ds

PAGES = sorted((Path(__file__).parents[2] / "docs" / "library").glob("*.md"))


def full_name(found: object) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def public() -> dict[str, object]:
    every = (getattr(ds, name) for name in ds.__all__)
    return {full_name(found): found for found in every if hasattr(found, "__module__")}


def own_classes(hint: object) -> Iterator[type]:
    """Classes of the package in an annotation, however deep."""
    if isinstance(hint, type) and hint.__module__.startswith("dposcope."):
        yield hint
    for part in typing.get_args(hint):
        yield from own_classes(part)


def hints(found: object) -> dict[str, object]:
    # An annotation that is imported for type checkers only has no value here; the name is then no returned type.
    try:
        return typing.get_type_hints(found)
    except NameError:
        return {}


def answers(found: object) -> Iterator[type]:
    """What comes back: from a function; from the methods, properties and fields of a class."""
    if not inspect.isclass(found):
        yield from own_classes(hints(inspect.unwrap(found)).get("return"))
        return
    for name, hint in hints(found).items():
        if not name.startswith("_"):
            yield from own_classes(hint)
    for name, member in inspect.getmembers_static(found):
        if not name.startswith("_") and inspect.isfunction(function := function_of(member)):
            yield from own_classes(hints(inspect.unwrap(function)).get("return"))


def function_of(member: object) -> object:
    match member:
        case property():
            return member.fget
        case functools.cached_property():
            return member.func
        case classmethod() | staticmethod():
            return member.__func__
        case _:
            return member


def returned() -> set[str]:
    """Types that come back from public names, and from those types in turn, and are not public themselves."""
    known = public()
    found, to_do = set(), list(known.values())
    while to_do:
        for one in answers(to_do.pop()):
            if full_name(one) not in known and full_name(one) not in found and not one.__name__.startswith("_"):
                found.add(full_name(one))
                to_do.append(one)
    return found


def listed() -> list[str]:
    lines = [line for page in PAGES for line in page.read_text("utf-8").splitlines()]
    return [line.removeprefix("::: ").strip() for line in lines if line.startswith("::: ")]


def test_every_public_name_and_every_returned_type_is_on_a_page_and_nothing_else():
    assert set(listed()) == public().keys() | returned()


def test_no_name_is_on_two_pages():
    assert Counter(listed()).most_common(1)[0][1] == 1


def test_a_returned_type_would_be_missed():
    assert "dposcope.neurons.shares.GroupShares" in returned()
    assert "dposcope.neurons.shares.GroupShare" in returned()  # of a field of the former


def test_the_core_names_about_25_of_those_that_exist():
    core = (Path(__file__).parents[2] / "docs" / "library" / "index.md").read_text("utf-8")
    named = [line for name in public() for line in core.splitlines() if f"][{name}]" in line and line.startswith("| ")]
    assert 20 <= len(named) <= 30
