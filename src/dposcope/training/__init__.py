"""Preference tuning: the loss, batches, what is trained, the trainer (paper 3.1, appendix C)."""
