"""Teachers: one protocol over a local GGUF, a transformers model, an API and a scripted stand-in."""
