"""Thread-safety patches for PyTorch Geometric: apply them, prove them, check them."""

__version__ = "1.0.0"
