"""Search for the best edit: what a trial may be, what it costs, which is chosen."""
