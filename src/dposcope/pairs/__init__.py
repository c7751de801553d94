"""Preference pairs, and methods to make them (paper 3.1, appendix B)."""
