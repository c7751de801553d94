"""The paper's claims, one by one."""
