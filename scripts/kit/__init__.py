"""Thread-safety patches for PyTorch Geometric: apply them, prove them, check them."""
