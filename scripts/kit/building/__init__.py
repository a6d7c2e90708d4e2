"""Wheels: of the extensions, for a torch and a CUDA; and of a patched PyG."""
