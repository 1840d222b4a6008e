"""The figures of a study, one kind a file; ``dse.plots`` decides which of them a run gets."""
