"""Neuron activations: where they are, their means, sets and groups."""
