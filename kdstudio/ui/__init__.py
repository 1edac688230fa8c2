"""The window. Qt lives here and nowhere else; whatever is long or heavy is a job or a background task."""
