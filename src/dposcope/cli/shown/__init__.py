"""What a person reads: help pages, bars, and the end of a run."""
