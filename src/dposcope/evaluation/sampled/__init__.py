"""Measures of many texts: what a model really writes, and what it makes of its own harmless text."""
