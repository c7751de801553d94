"""What is measured of a model: conditions by name, harmless samples, servers that write, and the scores."""
