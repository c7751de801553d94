"""What mean activations of a mixture of experts have beside those of other models."""
