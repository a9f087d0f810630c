"""Whether the simulator predicts real daemons: both are measured alike and stand side by side."""
