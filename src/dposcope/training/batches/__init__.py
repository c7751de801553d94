"""Pairs and texts as packed batches of token ids, and how a model reads them."""
