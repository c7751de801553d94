"""A person, a model and an edit of it: the plain and the edited model answer side by side."""
