"""Hugging Face's own bars and remarks, kept from mixing with ours."""

import io
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr

from transformers.utils import logging


@contextmanager
def without_progress_bars() -> Generator[None]:
    """Silence loading and saving bars inside, and leave the caller's setting as it was."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The bar of GGUF dequantising heeds no setting, only the stream.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
