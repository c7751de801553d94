"""The unembedding: its numbers, and what tokens cost under it."""
