"""What each difference between the paper's text and its published code does to a number: see `protocols.py`."""
