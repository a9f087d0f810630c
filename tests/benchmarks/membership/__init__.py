"""How fast real daemons agree on who is there, side by side with Serf on the same machine."""
