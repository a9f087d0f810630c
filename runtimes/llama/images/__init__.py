"""What an image is to a model: places among tokens, and steps that read it."""
