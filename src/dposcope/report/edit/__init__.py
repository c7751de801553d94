"""The page of an edit."""
