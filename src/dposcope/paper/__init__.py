"""The paper's printed numbers, and their comparison with ours."""
