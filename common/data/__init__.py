"""Data sets: their names, where they are stored, and how they reach the training step."""
