"""What can be known of a model file without loading it."""
