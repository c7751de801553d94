"""The Perspective API as a scorer, with every answer kept on disk."""
