"""Scripts that run what KD Studio is measured against, in `.venv-peers`; each prints one line of JSON.

Nothing here imports kdstudio: the peers' environment does not have it.
"""
