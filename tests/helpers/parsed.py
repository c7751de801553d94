"""The options of a command, read from its signature once for all the commands that a test process runs.

cyclopts reads them anew for every command line. That is 20 ms, most of what a refusal takes, and a user pays it once.
"""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
from cyclopts import App, ArgumentCollection


def unused(read: ArgumentCollection) -> ArgumentCollection:
    """The same options, with room of their own for what a command line gives."""
    own = {id(one): copy.copy(one) for one in read}
    for one in own.values():
        one.tokens = []
        one.children = ArgumentCollection([own[id(child)] for child in one.children])
    return ArgumentCollection(own.values())


@contextmanager
def read_once() -> Generator[None]:
    """Within, the signature of a command is read at its first use; every use gets an unused copy."""
    read: dict[tuple[int, Callable[..., Any] | None, bool], tuple[Any, ArgumentCollection]] = {}
    whole = App.assemble_argument_collection

    @wraps(whole)
    def assemble(app: App, *, default_parameter: Any = None, parse_docstring: bool = False) -> ArgumentCollection:
        about = (app, default_parameter, app.app_stack.default_parameter, app.help_flags, app.version_flags)
        key = (id(app), app.default_command, parse_docstring)
        found, options = read.get(key, (None, None))
        if options is None or found != about:
            options = whole(app, default_parameter=default_parameter, parse_docstring=parse_docstring)
            read[key] = about, options
        return unused(options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(App, "assemble_argument_collection", assemble)
        yield
