"""The toy world, the tiny models trained on it, and measures of what they make."""
