"""Inference over a simulated mesh: requests, machines that serve them, and policies between."""
