"""Whether a model can be used, told before anything of it is built, or when it is loaded."""
