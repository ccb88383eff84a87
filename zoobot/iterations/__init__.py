"""One iteration of an experiment: receive, learn, evaluate, choose, ask; and the files that it writes.

The stages call these steps. Comparing experiments belongs to ``zoobot.reports``.
"""
