"""A stand-in for Zooniverse on this machine: ``python -m zoobot.oracles.rehearsal --help``."""
