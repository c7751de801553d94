"""Mixtures of experts: their weights, and their activations during a pass."""
