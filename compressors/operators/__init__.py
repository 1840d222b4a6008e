"""Layers that compute with packed planes: AND, XOR, popcount, shift and add."""
