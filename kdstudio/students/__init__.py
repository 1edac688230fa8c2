"""Students: cut from the teacher's own GGUF, read from a local folder, or made anew from a size."""
