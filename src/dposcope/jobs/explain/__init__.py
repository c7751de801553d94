"""`dposcope explain`: what tuning changed, neuron by neuron (paper, sections 4 to 6)."""
