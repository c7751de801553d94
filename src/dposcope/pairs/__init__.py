"""Preference pairs, and ways to make them (paper 3.1, appendix B)."""
