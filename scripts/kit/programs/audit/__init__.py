"""The part of the audit that runs a model, inside the environment that serves it.

`__main__.py` is the program; nothing here imports the kit, and all of it runs on
Python 3.7 and torch 1.13 to those of today.
"""
