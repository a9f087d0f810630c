"""The one place for what every worker process needs, whatever it computes."""
