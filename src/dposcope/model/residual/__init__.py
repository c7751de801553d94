"""The residual stream where blocks pass on several."""
