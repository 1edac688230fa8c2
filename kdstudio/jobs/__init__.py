"""Jobs: processes with a journal, and the supervisor that starts and tails them."""
