"""Where files that any run may use again are kept."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from dposcope.files import expanded


def cache_folder() -> Path:
    """`$DPOSCOPE_CACHE`, or the user's cache folder for this program."""
    chosen = os.environ.get("DPOSCOPE_CACHE")
    return expanded(chosen) if chosen else user_cache_path("dposcope", appauthor=False)
