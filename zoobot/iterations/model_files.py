"""The files of a folder that holds a model: an iteration's, or that of the final model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot import folders
from zoobot.metrics import Values
from zoobot.models import saved
from zoobot.models.saved import Losses

Metrics = dict[str, dict[str, Values]]  # {split: {question: {metric: value}}}


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model and its metrics: an iteration's, or that of the final model."""

    path: Path

    @property
    def model(self) -> Path:
        """Weights, architecture and training history."""
        return self.path / "model"

    def losses(self) -> list[Losses]:
        """The losses of each network's epochs; none of a head."""
        return saved.read_losses(self.model)

    def metrics(self) -> Metrics:
        """Read metrics.json."""
        found: Metrics = folders.read_json(self.path / "metrics.json")
        return found

    def write_metrics(self, metrics: Metrics) -> None:
        """Write metrics.json."""
        folders.write_json(self.path / "metrics.json", metrics)

    def loss(self, split: str) -> float:
        """The loss of all votes, nats per galaxy."""
        loss = self.metrics()[split]["all"]["loss"]
        assert isinstance(loss, float)
        return loss

    @property
    def has_test_losses(self) -> bool:
        """Whether the loss of each test galaxy was kept."""
        return (self.path / "test.parquet").is_file()

    def test_losses(self) -> pa.Table:
        """test.parquet: ``id_str`` and ``loss`` of each test galaxy, in the order of the shards."""
        return pq.read_table(self.path / "test.parquet")

    def write_test_losses(self, table: pa.Table) -> None:
        """Write test.parquet."""
        pq.write_table(table, self.path / "test.parquet")

    def worst_of_eval(self, n: int) -> pd.DataFrame:
        """The ``n`` eval galaxies with the highest losses, that first: eval.parquet, with ``id_str``, ``loss`` and the
        expected fraction of each answer of the first question. A folder of an earlier version has none.
        """
        path = self.path / "eval.parquet"
        table = pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=["id_str", "loss"])
        return table.nlargest(n, "loss")

    def write_eval(self, table: pa.Table) -> None:
        """Write eval.parquet."""
        pq.write_table(table, self.path / "eval.parquet")
