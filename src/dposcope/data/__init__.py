"""The data that everything else reads: prompts, comments, neutral text, passages and word lists."""
