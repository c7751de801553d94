"""The learned gains beside what else makes a model less toxic, each over its own sweep: see `__main__.py`."""
