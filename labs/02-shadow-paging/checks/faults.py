"""To be written."""

CHECKPOINTS = []
