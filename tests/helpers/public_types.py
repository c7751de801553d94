"""Every class that a user meets: those that can be imported from the top, and those that they and functions give."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache

import dposcope as ds


@cache
def classes_by_name() -> dict[str, type]:
    """Dataclasses of the package without a leading underscore."""
    modules = [one.name for one in pkgutil.walk_packages(ds.__path__, "dposcope.") if one.name != "dposcope.__main__"]
    return {
        name: one
        for module in modules
        for name, one in inspect.getmembers(importlib.import_module(module), inspect.isclass)
        if one.__module__ == module and dataclasses.is_dataclass(one) and not name.startswith("_")
    }


def _given_by(one: object) -> Iterator[str]:
    """What annotations say that comes out of a function, or out of a class's fields, properties and methods."""
    if inspect.isfunction(one):
        yield str(one.__annotations__.get("return", ""))
    elif inspect.isclass(one):
        yield from map(str, vars(one).get("__annotations__", {}).values())
        for name, member in vars(one).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            function = getattr(function, "func", function)  # a cached property
            if not name.startswith("_") and inspect.isfunction(function):
                yield str(function.__annotations__.get("return", ""))


def public_types() -> dict[str, type]:
    """Name → dataclass."""
    known, found = classes_by_name(), {}
    open_ends = [getattr(ds, name) for name in ds.__all__]
    while open_ends:
        one = open_ends.pop()
        one = inspect.unwrap(one) if inspect.isfunction(one) else one
        names = {word for told in _given_by(one) for word in re.findall(r"\w+", told)}
        if inspect.isclass(one):
            names.add(one.__name__)
        for name in names & known.keys() - found.keys():
            found[name] = known[name]
            open_ends.append(known[name])
    return found
