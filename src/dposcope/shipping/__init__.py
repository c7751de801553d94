"""An edit in a format that other software runs: a checkpoint folder, PEFT adapters, a GGUF file."""
