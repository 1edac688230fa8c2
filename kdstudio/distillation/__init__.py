"""Training a student: formulas, the signals they read, and the one loop that knows none of them by name."""
