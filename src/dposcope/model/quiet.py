"""Hide the progress bars and log messages of Hugging Face libraries."""

import io
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr

from transformers.utils import logging


@contextmanager
def without_progress_bars() -> Generator[None]:
    """Hide the bars of loading and saving inside; restore the caller's settings on leaving."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The bar of GGUF dequantising ignores the setting, so its stream is redirected.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
