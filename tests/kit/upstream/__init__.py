"""Tests of `kit.upstream`."""
