"""Models whose truth under threads is known, in the shape of public ones.

A file has a family. `entries.py` says what is noted of each, `truth.py` checks that
without the audit, and `test_zoo.py` holds the audit to it.
"""
