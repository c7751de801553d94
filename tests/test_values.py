"""Values are frozen; those that hold tensors or arrays are not compared field by field, which torch refuses."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import dposcope

ARRAYS = ("Tensor", "ndarray", "NDArray")
CHANGING = {"Answering", "Applied", "Conversation", "HeldModel", "_Beside", "_Piece"}
"""What counts, keeps or grows while something runs; no value."""


def dataclasses_of_the_package() -> Iterator[type]:
    """Each once."""
    for module in pkgutil.walk_packages(dposcope.__path__, "dposcope."):
        if module.name != "dposcope.__main__":
            for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if one.__module__ == module.name and "__dataclass_params__" in vars(one):
                    yield one


def test_values_are_frozen():
    changing = {one.__name__ for one in dataclasses_of_the_package() if not one.__dataclass_params__.frozen}
    assert changing == CHANGING


def test_what_holds_tensors_or_arrays_is_equal_only_to_itself():
    compared = {
        f"{one.__module__}.{one.__name__}"
        for one in dataclasses_of_the_package()
        if one.__dataclass_params__.eq
        and any(kind in str(field.type) for field in dataclasses.fields(one) for kind in ARRAYS)
    }
    assert compared == set()
