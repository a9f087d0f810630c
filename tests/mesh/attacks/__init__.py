"""Attacks on real daemons: each file is one kind of attacker."""
