"""Pull requests for PyG: topics, branches, checks, and what is said of them."""
