"""Whether a text is the one that the paper takes log-perplexity on: WikiText-2's raw test part (3.1)."""

from pathlib import Path

from dposcope.artefacts import file_digest

HUB = "hub:salesforce/wikitext/wikitext-2-raw-v1@test"
"""Where the hub has it, in lower case."""

DIGEST = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
"""SHA-256 of `wiki.test.raw` as its authors published it: 1,290,590 bytes, 4,358 lines."""


def is_wikitext_2(source: str) -> bool:
    """Whether a setting names WikiText-2's test part: by its hub id, or by the bytes of a file, whatever it is called.

    Args:
        source: as `--neutral` takes it. What cannot be read any more is not known to be it.
    """
    if source.lower() == HUB:
        return True
    path = Path(source)
    try:
        return path.is_file() and file_digest(path) == DIGEST
    except OSError:
        return False
