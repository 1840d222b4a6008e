"""Processing elements: what they are built of, and what the parts cost."""
