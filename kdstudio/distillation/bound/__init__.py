"""The catalogue's objectives bound to code, one module for each level that they read."""
