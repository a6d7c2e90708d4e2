"""Tests of `kit.bench`."""
