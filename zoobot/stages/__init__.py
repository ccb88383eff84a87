"""The stages of the program, one module each, with ``run(settings)``."""
