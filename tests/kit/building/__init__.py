"""Tests of `kit.building`."""
