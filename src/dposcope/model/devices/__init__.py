"""One model over several devices: which part goes where, and what that asks of copies and of models in memory."""
