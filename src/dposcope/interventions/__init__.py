"""What can be done to a model's activations or weights."""
