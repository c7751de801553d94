"""Where a decoder keeps its parts: a table, then recognition by structure, then what is registered."""
