"""Turn raw Zooniverse classifications into votes per subject, by the rules in ``reduction``.

This package reads, judges and counts. ``zoobot.oracles`` asks Zooniverse for classifications.
"""

from zoobot.votes.reduction import (
    DUPLICATE,
    REJECTED_COLUMNS,
    REPEAT,
    SESSION_REPEAT,
    Reduction,
    reduce,
    reduce_all,
    resources,
)

__all__ = [
    "DUPLICATE",
    "REJECTED_COLUMNS",
    "REPEAT",
    "SESSION_REPEAT",
    "Reduction",
    "reduce",
    "reduce_all",
    "resources",
]
