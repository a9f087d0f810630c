"""The worker's side: a loaded model, and the steps in which it answers many requests."""
