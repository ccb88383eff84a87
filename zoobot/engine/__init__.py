"""How work runs: separate processes, progress of long work, one random stream per purpose.

This package knows nothing about galaxies, settings or folder formats.
"""
