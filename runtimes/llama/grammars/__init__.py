"""What an answer may be: GBNF, JSON schemas, and the shapes of thoughts and calls."""
