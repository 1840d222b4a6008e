"""What unlabelled images tell: activation grids, and repairs that need no retraining."""
