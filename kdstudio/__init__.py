"""KD Studio: distil a large language model into a small one that runs offline."""

__version__ = "0.1.0"
