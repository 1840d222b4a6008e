"""What machines on field-programmable gate arrays are made of: fabric laws, FINN's estimates, folding, clocks."""
