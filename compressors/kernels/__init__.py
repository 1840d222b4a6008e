"""Numba kernels on packed bit-planes; imported only where counting really happens (Numba starts slowly)."""
