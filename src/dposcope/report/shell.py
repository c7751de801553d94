"""The shell of every page: one self-contained HTML file.

Everything that a template prints passes through `ShownText`, which masks and escapes it. Style and script are inline.
The content security policy names their hashes and allows nothing else.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import CodeType
from typing import Any, Final

from jinja2 import BytecodeCache, Environment, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from dposcope.errors import plural
from dposcope.evaluation.numbers import between, exact, fact, fixed, signed
from dposcope.report.masked_text import ShownText


class _Compiled(BytecodeCache):
    """Compiled templates, kept in memory: every page has an environment of its own, and compiling takes longer than
    filling."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._kept[bucket.key, bucket.checksum] = bucket.code


_COMPILED: Final = _Compiled()


def render(template: str, shown: ShownText, **values: Any) -> str:
    """A template, filled.

    Args:
        template: its path below the package; it extends `report/templates/base.html.jinja`.
        shown: new for this page.
        values: the template's variables; a missing one is an error.
    """
    environment = Environment(
        loader=PackageLoader("dposcope", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=shown.finalize,
        bytecode_cache=_COMPILED,
    )
    filters: dict[str, Any] = {
        "fixed": fixed,
        "exact": exact,
        "signed": signed,
        "plural": plural,
        "between": between,
        "plain": shown.plain,
        "token": shown.token,
        "linked": shown.linked,
    }
    environment.filters.update(filters)
    style, script = asset("report/templates/page.css"), asset("report/templates/page.js")
    return environment.get_template(template).render(
        shown=shown, style=style.text, script=script.text, style_hash=style.digest, script_hash=script.digest, **values
    )


def flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as a flat list of (name, value); names are joined: `quality, roc auc`."""
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        label = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            rows += flatten(value, f"{label}, ")
        else:
            rows.append((label, fact(value)))
    return rows


@dataclass(frozen=True)
class Asset:
    """A page's style or script."""

    text: Markup
    digest: str
    """As a content security policy names it."""


@cache
def asset(*names: str) -> Asset:
    """Files as one, each named by its path below the package."""
    folder = resources.files("dposcope")
    text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Asset(Markup(text), f"sha256-{digest}")
