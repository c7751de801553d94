"""Numbers with intervals, comparisons on the same items, and tests of significance."""
