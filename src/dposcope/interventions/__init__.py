"""Interventions on a model's activations or weights."""
