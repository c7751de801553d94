"""`dposcope evaluate`: any conditions of one model, side by side."""
