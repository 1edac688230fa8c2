"""Networks in torch from files that nobody vouches for: assembled, read and tokenised, for teachers and students."""
