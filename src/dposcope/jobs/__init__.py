"""What each command does, a folder a command; and what they share: a run, its settings, data, conditions."""
