"""What the oracle of a simulation would answer: the only way from the hidden votes to a fit of the model.

Only two things may use it: ``oracle_batch``, a ceiling that no way of choosing can reach without the answers, and
``all_labels``, the fit to everything. An acquisition function never sees a hidden vote (tests/test_ceiling.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zoobot.errors import SettingsError
from zoobot.galaxies.tables import read_votes
from zoobot.iterations.iteration import Iteration
from zoobot.oracles.simulated import require_hidden


def of_galaxies(it: Iteration, ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """The votes N × A that these galaxies would get, whole numbers: the hidden votes, as ``oracle=known``
    gives them; of simulated volunteers what they answer on average, rounded.

    Raises SettingsError if real people answer: their votes are not known before they are asked.
    """
    if it.settings.oracle.live:
        raise SettingsError(f"oracle.kind={it.settings.oracle.kind}: the votes of real people are not known yet.")
    hidden = read_votes(it.catalog_dir / "oracle.csv")
    require_hidden(hidden, ids)
    votes = hidden.loc[list(ids)]
    if it.settings.oracle.kind == "simulated":
        root_N = votes[list(it.questions.root.columns)].sum(axis=1)
        scale_N = it.settings.oracle.votes_per_galaxy / root_N.clip(lower=1)
        votes = votes.mul(scale_N, axis=0).round().astype("int64")
    table = it.task.add_label(votes)
    return it.task.counts({name: table[name].to_numpy() for name in it.task.stored_columns})
