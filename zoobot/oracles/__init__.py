"""Who answers a request for labels: simulated volunteers, known votes, or the volunteers of a Zooniverse project.

What an iteration does with the answers is not decided here, but in ``zoobot.iterations``.
"""
