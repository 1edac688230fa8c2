"""Rounds with the student in the loop: a chain of ordinary runs that elicit, train and measure."""
