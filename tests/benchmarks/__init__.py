"""What `make bench` measures: each figure as a ratio to a peer in the same run, never asserted in a test."""
