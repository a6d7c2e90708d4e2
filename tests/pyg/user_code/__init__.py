"""Cases of `tests/pyg/cases.py`, one subject a file."""
