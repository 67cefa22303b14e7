"""Data sets: what they are called, where they lie, and how they reach the training step."""
