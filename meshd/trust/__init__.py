"""Keys, tokens and TLS: how the records of `protocol.authority` come to life on a machine."""
