"""A section of a page: a title, paragraphs, figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from dposcope.report.table import Table


@dataclass(frozen=True)
class SectionFigure:
    """A figure with its caption."""

    svg: Markup
    """From `figure_svg`, its name unique in the page."""
    caption: str


@dataclass(frozen=True)
class Section:
    """Under one heading: text, then figures, then tables."""

    title: str
    text: Sequence[str] = field(default_factory=tuple)
    """Paragraphs."""
    figures: Sequence[SectionFigure] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
