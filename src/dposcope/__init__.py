"""See what preference tuning did to a language model, neuron by neuron."""
