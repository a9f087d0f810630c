"""How the first release read bytes (commit 54b27af), frozen, and tests that it reads today's."""
