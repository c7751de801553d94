"""`dposcope reproduce`: all of the paper for any models, and explanations beside one another."""
