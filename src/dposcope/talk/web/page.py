"""The page and its style, script and icon, as they go over the wire."""

from dataclasses import dataclass

from dposcope.report.masked_text import ShownText
from dposcope.report.shell import asset, render
from dposcope.talk.prompts import own_prompts
from dposcope.talk.web.answering import MOST_LETTERS, MOST_STRENGTH, MOST_TOKENS, Answering


@dataclass(frozen=True)
class Sent:
    """A file of the page."""

    kind: str
    """Its media type."""
    body: bytes


def page_files(answering: Answering) -> dict[str, Sent]:
    """Name below the page's address → file; the page itself has no name."""
    session = answering.session
    html = render(
        "talk/web/page.html.jinja",
        ShownText(),
        model=session.lm.name,
        edit=session.edit_told,
        origin=session.notes,
        chat=session.lm.asking is not None,
        notes=answering.scorers.notes,
        scorers=[scorer.name for scorer in answering.scorers.scorers.values()],
        neurons=len(answering.neurons),
        prompt=own_prompts(session.lm)[0],
        new_tokens=min(session.new_tokens, MOST_TOKENS),
        most_letters=MOST_LETTERS,
        most_tokens=MOST_TOKENS,
        most_strength=MOST_STRENGTH,
    )
    return {
        "": Sent("text/html; charset=utf-8", html.encode()),
        "page.css": Sent("text/css; charset=utf-8", _file("report/templates/page.css", "talk/web/talk.css")),
        "page.js": Sent("text/javascript; charset=utf-8", _file("talk/web/talk.js")),
        "icon.svg": Sent("image/svg+xml", _file("talk/web/icon.svg")),
    }


def _file(*names: str) -> bytes:
    return asset(*names).text.encode()
