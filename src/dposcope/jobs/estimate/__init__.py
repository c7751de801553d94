"""Time, memory and disk of every command, before any weights are loaded."""
