"""The one place for the model that ships in the package."""
