"""What the stations below read: prompts, comments, neutral text, passages and word lists."""
