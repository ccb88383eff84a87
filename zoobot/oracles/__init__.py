"""Oracles answer requests for labels: simulated volunteers, known votes, or the volunteers of a Zooniverse project.

``zoobot.iterations`` decides what happens to the answers.
"""
