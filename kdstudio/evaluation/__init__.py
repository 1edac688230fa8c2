"""How far a student is from its teacher: divergences on held-out rows, and both answers side by side."""
