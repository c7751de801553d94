"""`dposcope reproduce`: all of the paper for any models, and one report over several explanations."""
