"""How an edit names where its gains come from; light, since settings name it, too."""

from typing import Final

LEARNED: Final = "learned"
"""How `about["source"]` begins where gains were learned."""
