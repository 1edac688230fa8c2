"""What can be known of a model file without loading it: no torch, no llama.cpp, safe in the window's process."""
