"""The toy world and the tiny models trained on it."""
