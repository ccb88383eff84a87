"""Raw Zooniverse classifications become votes per subject, by rules that are written down in ``reduction``.

Reading, judging and counting are here. Asking Zooniverse for classifications belongs to ``zoobot.oracles``.
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
