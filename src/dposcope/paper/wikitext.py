"""Recognises the paper's text for log-perplexity: the raw test part of WikiText-2 (3.1)."""

from pathlib import Path

from dposcope.artefacts import file_digest

HUB = "hub:salesforce/wikitext/wikitext-2-raw-v1@test"
"""Its hub id, in lower case."""

DIGEST = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
"""SHA-256 of `wiki.test.raw` as its authors published it: 1,290,590 bytes, 4,358 lines."""


def is_wikitext_2(source: str) -> bool:
    """Whether a setting names the test part of WikiText-2, by its hub id or by the bytes of a file.

    Args:
        source: a value of `--neutral`; a file that cannot be read gives False.
    """
    if source.lower() == HUB:
        return True
    path = Path(source)
    try:
        return path.is_file() and file_digest(path) == DIGEST
    except OSError:
        return False
