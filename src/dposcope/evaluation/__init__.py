"""Measures of text and models, with intervals."""
