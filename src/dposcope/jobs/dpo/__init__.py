"""`dposcope dpo`: preference tuning with its KL term (paper 3.1, appendix C)."""
