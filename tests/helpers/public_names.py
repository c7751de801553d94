"""All that a user can name, as text: names of the library with their signatures, and commands with their options.

    PYTHONPATH=tests python -m helpers.public_names    writes tests/public_names.txt again (`make names`)

Signatures are read from the source, so the text is the same for every version of Python and of the libraries.
"""

import ast
import importlib.util
import types
import typing
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from inspect import Parameter
from pathlib import Path
from typing import Any, cast

from dposcope.cli.app import app

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "dposcope"
KEPT = ROOT / "tests" / "public_names.txt"


def public_names() -> str:
    """The whole text."""
    return "\n".join(["# Library", "", *_library(), "", "# Commands", "", *_commands()]) + "\n"


# The library


def _library() -> Iterator[str]:
    """Each public name, as the stub lists it, by its alphabet."""
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    listed = {
        one.asname: (node.module, one.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for one in node.names
    }
    for name, (module, own) in sorted(listed.items()):
        yield from _described(str(name), _definition(f"dposcope.{module}", own))


def _definition(module: str, name: str) -> ast.stmt:
    found = importlib.util.find_spec(module)
    assert found is not None
    # The last one: signatures for one kind of argument stand before the function itself.
    for node in reversed(ast.parse(cast(SourceFileLoader, found.loader).get_source(module) or "").body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node
    raise LookupError(f"{module} does not define {name}")


def _described(name: str, node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield f"{name}{_signature(node)}"
    elif isinstance(node, ast.ClassDef):
        yield from (f"@{ast.unparse(one)}" for one in node.decorator_list)
        yield f"{name}({', '.join(ast.unparse(base) for base in node.bases)})"
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and (one.name[0] != "_" or one.name in ("__init__", "__call__")):
                kinds = [ast.unparse(kind) for kind in one.decorator_list]
                if "property" in kinds or "cached_property" in kinds:
                    yield f"    .{one.name} -> {ast.unparse(one.returns) if one.returns else '?'}"
                else:
                    yield f"    .{one.name}{_signature(one)}"
            elif isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_"):
                given = "" if one.value is None else f" = {ast.unparse(one.value)}"
                yield f"    {ast.unparse(one.target)}: {ast.unparse(one.annotation)}{given}"
            elif isinstance(one, ast.Assign) and not ast.unparse(one.targets[0]).startswith("_"):
                yield f"    {ast.unparse(one)}"
    else:
        yield ast.unparse(node)


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"({ast.unparse(node.args)}){returns}"


# Commands


def _commands() -> Iterator[str]:
    for path, command in _walk(app, "dposcope"):
        yield path
        for option in command.assemble_argument_collection(parse_docstring=False):
            if not option.children:
                default = option.field_info.default
                given = "" if option.required or default is Parameter.empty else f" = {default!r}"
                yield f"    {' '.join(option.names)}: {_type(option.hint)}{given}"


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if command.default_command is not None:
        yield path, command
    for name in command:
        if not name.startswith("-"):
            yield from _walk(command[name], f"{path} {name}")


def _type(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(one) for one in inner)
    if origin is typing.Annotated:
        return _type(inner[0])  # bounds have tests of their own
    if origin is typing.Literal:
        return " | ".join(map(repr, inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_type(one) for one in inner)}]"
    return {type(None): "None", ...: "..."}.get(hint) or hint.__name__


if __name__ == "__main__":
    KEPT.write_text(public_names(), encoding="utf-8")
