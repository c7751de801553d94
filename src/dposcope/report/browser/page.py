"""The neuron browser as a page: the neurons of a base and a tuned model, in one self-contained HTML file.

The page has the shell of the reports and tabs: what the caller found, the neurons in three panes that scripts draw from
packed arrays, and the caller's sections folded under Method. Without scripts the parts stand one after the other, and
everything except the table, the cloud of dots and the opened neuron can be read.

A page holds every neuron if that fits into `MAX_BYTES`, else the strongest, and says so.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dposcope.artefacts import write_text
from dposcope.errors import plural
from dposcope.evaluation.numbers import fact, fixed
from dposcope.report.browser.explained import Explained
from dposcope.report.browser.heat_map import heat_map
from dposcope.report.browser.kept import Kept, kept
from dposcope.report.browser.neurons import GROUPS, NeuronBrowser
from dposcope.report.browser.packing import BYTES_OF_KEPT, BYTES_OF_NEURON, in_script, packed_parts
from dposcope.report.glossary import Term
from dposcope.report.masked_text import ShownText
from dposcope.report.section import Section
from dposcope.report.shell import asset, render

MAX_BYTES = 20_000_000
"""A page gets fewer neurons before it grows beyond this, as browsers on phones could not open it."""
_SPARE = 10_000
"""Bytes that are not counted on."""

_STYLES = ("report/templates/page.css", "report/browser/explained.css", "report/browser/browser.css")
_PARTS = ("tabs", "browser_data", "browser_table", "browser_cloud", "browser_detail", "browser")
_SCRIPTS = (
    "report/templates/page.js",
    *(f"report/browser/{name}.js" for name in _PARTS),
)

TERMS = (
    Term("Neuron", "Block and index, counted from 0: 12.345 is number 345 of block 12's MLP."),
    Term("Activation", "The neuron's input to the MLP's output projection. The mean is over generated tokens."),
    Term("Cosine", "Cosine of the neuron's value vector, in the base model, with the direction. Above 0, the value "
         "vector points along the direction."),
    Term(
        "Contribution",
        "How much less the neuron writes along the direction after tuning than before, on average over tokens "
        "(the paper's Eq. 2).",
    ),
    Term("↓, ↑", "↓: the contribution is positive, tuning reduced what the neuron writes along the direction; "
         "↑: it is negative, tuning raised it."),
    Term("Gain", "Mean activation after tuning, divided by that before; 1 means no change. Below 0 the sign turned."),
    Term("Rank", "Place among all neurons by contribution, the largest first."),
    Term(
        "TP, TN, AP, AN",
        "Groups: does the value vector point with the direction (T) or against it (A), and is the mean activation "
        "before tuning positive (P) or negative (N)? A neuron of cosine or mean 0 belongs to none.",
    ),
    Term("Certain", "The contribution is larger than 1.96 standard errors."),
    Term("Lens", "The tokens that the value vector promotes when the model's own output layer reads it; and those "
         "that its opposite promotes."),
    Term("Plain model", "The base model without a patch, an edit or steering; in files its condition is named none."),
)  # fmt: skip
"""Words that a reader of the browser may not know."""


_OF_EXPERTS = (
    Term("Neuron", "Block, expert and index, counted from 0: 12.3.45 is number 45 of expert 3 in block 12."),
    Term("Activation", "The neuron's input to its expert's down projection. The mean is over the generated tokens that "
         "the router sent to the expert, a shared expert's over all; contributions are over all of them, with the "
         "router's weights."),
)  # fmt: skip
"""Instead of the first two, for a mixture of experts."""


def write_browser(
    value: NeuronBrowser, path: str | Path, *, sections: Sequence[Section] = (), explained: Explained | None = None
) -> None:
    """Write the page, whole or not at all.

    Raises:
        DposcopeError: the file cannot be written.
    """
    write_text(path, browser_html(value, sections=sections, explained=explained))


def browser_html(value: NeuronBrowser, *, sections: Sequence[Section] = (), explained: Explained | None = None) -> str:
    """The page as HTML; the same values give the same text. For the precision of its numbers see `packed_parts`.

    Args:
        value: the neurons.
        sections: folded under Method, in order.
        explained: what the tabs beside the neurons say; None for a page of neurons alone.
    """

    def made(part: Kept | None) -> str:
        return _html(value, part, sections=sections, explained=explained)

    if value.group.size * BYTES_OF_NEURON < MAX_BYTES:
        html = made(None)
        if len(html.encode()) <= MAX_BYTES:
            return html
    # Besides the strongest it has neurons with a lens or texts, whatever they take.
    without = made(kept(value, 0))
    room = int((MAX_BYTES - _SPARE - len(without.encode())) / BYTES_OF_KEPT)
    part = kept(value, max(room, 1))
    # Where other parts take the room, leaving out neurons would not help.
    return made(part if len(part.neurons) < part.total else None)


def _html(value: NeuronBrowser, part: Kept | None, *, sections: Sequence[Section], explained: Explained | None) -> str:
    shown = ShownText()
    data = in_script(packed_parts(value, shown, part))
    style, script = asset(*_STYLES), asset(*_SCRIPTS)
    return render(
        "report/browser/browser.html.jinja",
        shown,
        # The shell has one element for style and one for script. This page appends its own to them.
        page_style=style.text,
        page_style_hash=style.digest,
        page_script=script.text,
        page_script_hash=script.digest,
        value=value,
        kept=part,
        blocks=value.shape[0],
        width=value.shape[1],
        sections=sections,
        explained=explained,
        tabs=_tabs(explained),
        # Code → name, in the order of the paper; a neuron without a group only where there is one.
        groups=[(code, name) for code, name in enumerate(GROUPS) if code or value.without_group],
        summary=_summary(value),
        map=heat_map(value),
        terms=TERMS if value.experts is None else (*_OF_EXPERTS, *TERMS[2:]),
        data=data,
    )


def _tabs(explained: Explained | None) -> list[tuple[str, str]]:
    """Anchor and name of each part of the page, in order."""
    told = [("result", "Result"), *([("texts", "Texts")] if explained.texts else [])] if explained else []
    return [*told, ("neurons", "Neurons"), *([("claims", "Claims")] if explained else []), ("method", "Method")]


def _summary(value: NeuronBrowser) -> str:
    total = value.contribution.astype(np.float64)
    fell, rose = float(total[total > 0].sum()), float(-total[total < 0].sum())
    share = 100 * float((total > 0).sum() / value.neurons)
    net, still = fell - rose, int((total == 0).sum())
    begun = (
        f"{fixed(share, 1)} per cent of {plural(value.neurons, 'neuron')} write less along the direction after tuning"
    )
    if still == value.neurons:
        return f"{begun}, the others as much as before."
    return (
        f"{begun}, {fact(fell)} in all; {f'{still:,} write as much as before, ' if still else ''}"
        f"the others write {fact(rose)} more: a net {'reduction' if net >= 0 else 'increase'} of {fact(abs(net))}."
    )
