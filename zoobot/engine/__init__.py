"""How work runs: separate processes, here or of a Ray cluster, progress of long work, one random stream per purpose,
and what libraries may do (where they keep files, what they say).

This package knows nothing about galaxies, settings or folder formats.
"""
