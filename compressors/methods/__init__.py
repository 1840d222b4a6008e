"""One file per way of writing weights: a frozen config, a registered function, results as SlicedTensor."""
