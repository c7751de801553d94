"""Commands that let a person talk to a model and to an edit of it."""
