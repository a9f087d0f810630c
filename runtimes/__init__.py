"""What this machine can run: models now, tasks later. Knows nothing of gossip, peers or HTTP.

`runtimes.base` is the contract, `runtimes.registry` finds what keeps it, `runtimes.hardware` says
what the machine has. README.md beside this file is the room's documentation.
"""
