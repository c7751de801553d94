"""The page with every neuron."""
