"""The one place for functions as a runtime: registered Python callables, each job a process."""
