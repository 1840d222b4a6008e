"""Parts of compute-in-memory machines: cells, converters, adder trees, and how layers are placed on arrays."""
