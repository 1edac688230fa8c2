"""What can be chosen, described without importing what executes it.

The window and the command line make forms, flags and documentation from these registries; torch and llama.cpp
stay in the children. The executing side binds to the same keys, and a contract test holds the two together.
"""
