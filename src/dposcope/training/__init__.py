"""Preference pairs, and the training that they are for (paper 3.1, appendix C)."""
