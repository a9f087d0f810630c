"""The one place for jobs: described, placed on a node, driven to their end, and remembered."""
