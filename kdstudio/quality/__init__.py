"""What can be said of a text, or of many, without a model: likeness, agreement, language, refusal, diversity."""
