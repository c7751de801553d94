"""Values as a caller gives them, checked."""
