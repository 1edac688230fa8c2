"""Drawing knowledge from a teacher, as a recipe of steps says."""
