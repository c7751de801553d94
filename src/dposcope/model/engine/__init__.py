"""A server that writes texts in the model's place."""
