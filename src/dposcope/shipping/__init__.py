"""An edit put into what others run: a checkpoint folder, PEFT adapters, a GGUF file, a quantised checkpoint."""
