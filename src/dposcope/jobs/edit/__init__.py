"""`dposcope edit`: an edit without training, folded into a checkpoint (paper 6.1)."""
