"""`python -m pyg_threadsafe`."""

from pyg_threadsafe import main

main()
