"""Chat models: prompts as messages in the chat template of a tokenizer."""
