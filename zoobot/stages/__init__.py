"""The stages of the program, one module each, with ``run(settings)``.

A stage reads folders and writes one. How the parts work is decided in the rooms below.
"""
