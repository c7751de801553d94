"""Live interchange in an explanation: which neurons carry the effect, with the text left whole."""
