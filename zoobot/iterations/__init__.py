"""The steps of an iteration (receive, learn, evaluate, choose, ask), and the files that it writes.

The stages call these steps. ``zoobot.reports`` compares experiments.
"""
