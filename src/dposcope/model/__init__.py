"""A plain Hugging Face model and tokenizer: loading, layout, batches, generation."""
