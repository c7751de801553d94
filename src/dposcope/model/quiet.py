"""Hugging Face's own progress bars, kept from mixing with ours."""

import io
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr

from transformers.utils import logging


@contextmanager
def without_progress_bars() -> Generator[None]:
    """Silence loading and saving bars inside, and leave the caller's setting as it was."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # The bar of GGUF dequantising heeds no setting, only the stream.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
