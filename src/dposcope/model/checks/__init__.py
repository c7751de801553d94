"""What a model on disk must be before anything of it is built."""
