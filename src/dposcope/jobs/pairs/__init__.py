"""`dposcope pairs`: preference pairs, sampled or by PPLM (paper 3.1)."""
