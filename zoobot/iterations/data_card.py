"""The data card of a catalogue: README.md for people, and croissant.json for programs (MLCommons Croissant 1.0,
https://docs.mlcommons.org/croissant/docs/croissant-spec.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoobot import folders
from zoobot.galaxies.table_writers import Column
from zoobot.iterations.final_files import Final
from zoobot.iterations.model_files import Metrics
from zoobot.metrics import COVERAGE_WIDTHS
from zoobot.settings import PredictSettings

DROPPED = "dropped.csv"
_UNSET = "NOT SET: give predict.{}=… before you publish this catalogue"
_WIDTH = COVERAGE_WIDTHS.index(5 / 40)
_READ = {
    "parquet": 'import pandas as pd\n\ngalaxies = pd.read_parquet("{}")',
    "fits": 'from astropy.table import Table\n\ngalaxies = Table.read("{}")',
    "csv": 'import pandas as pd\n\ngalaxies = pd.read_csv("{}", dtype={{"id_str": "string"}})',
}
_MIME = {"parquet": "application/vnd.apache.parquet", "fits": "application/fits", "csv": "text/csv"}
_TYPES = {pa.string(): "sc:Text", pa.bool_(): "sc:Boolean", pa.int64(): "sc:Integer"}  # all else: sc:Float
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What a data card says."""

    survey: str
    experiment: str
    settings: PredictSettings
    columns: Sequence[Column]
    n_galaxies: int
    n_learnt: int
    n_dropped: int
    final: Final
    measured: Metrics  # of the final model

    @property
    def summary(self) -> str:
        """What the catalogue is, in two sentences."""
        return (
            f"How volunteers would vote on {self.n_galaxies:,} galaxies of the survey {self.survey}: predicted by the"
            f" final model of the experiment {self.experiment} (task {self.final.recipe.task.name}), which has learnt"
            f" from the votes on {self.final.train_galaxies:,} galaxies."
        )

    def said(self, key: str) -> str:
        """The licence or the citation; a placeholder that cannot be overlooked if it is not set."""
        return getattr(self.settings, key) or _UNSET.format(key)


def write(folder: Path, card: Card, files: Sequence[Path]) -> None:
    """Write README.md and croissant.json beside the files of the catalogue, which lie in ``folder``."""
    (folder / "README.md").write_text(_readme(card, files[0].relative_to(folder)), encoding="utf-8")
    folders.write_json(folder / "croissant.json", croissant(card, folder, files))


def _readme(card: Card, first: Path) -> str:
    name = f"{first.parent}/" if len(first.parts) > 1 else str(first)
    rows = [f"| `{c.name}` | {c.type} | {c.unit} | {c.description} |" for c in card.columns]
    return "\n".join([
        f"# {card.settings.name}", "", card.summary, "",
        "```python", _READ[card.settings.format].format(name), "```", "",
        f"- One row a galaxy: {card.n_galaxies:,}.",
        f"- {card.n_dropped:,} galaxies have no row, because their picture or features could not be used:"
        f" `{DROPPED}` has their ids and the reasons.",
        f"- `learnt_from`: the model has learnt from the votes of {card.n_learnt:,} of these galaxies. Leave them out"
        " to test it.",
        "- Nothing says whether a galaxy is unlike all that the model has learnt from.", "",
        "## Columns", "", "| column | type | unit | |", "|---|---|---|---|", *rows, "",
        *_meaning(), *_calibration(card),
        "## Licence", "", card.said("licence"), "", "## Citation", "", card.said("citation"), "",
        "## Origin", "",
        "`manifest.json` has the settings, the versions, and the digests of all files, of the final model, the shards"
        " and the catalogs; `python run.py stage=verify verify.path=…` checks them.", "",
    ])  # fmt: skip


def _meaning() -> list[str]:
    return [
        "## What the numbers are", "",
        "A fraction is the share of an answer among the votes on its question that a galaxy would come to with ever"
        " more volunteers, given that they are asked the question. It is not the share among the few votes that it may"
        " have: that one scatters more.", "",
        "The model's posterior of these fractions is a mixture: of Dirichlet distributions, or of points if it takes"
        " votes to be independent. The catalogue has one Dirichlet distribution for each galaxy and question, with the"
        " mixture's mean and its variance, summed over answers. So all columns of an answer follow from the"
        " concentrations: `fraction` is its concentration c over the sum s of the question's; `fraction_low` and"
        " `fraction_high` are the 5 % and 95 % quantiles of Beta(c, s - c). The votes of n volunteers have the"
        " Dirichlet-multinomial distribution with these concentrations.", "",
        "The interval covers what the model does not know about a galaxy. With likelihood dirichlet_multinomial it also"
        " covers how much galaxies differ that look alike to the model.", "",
    ]  # fmt: skip


def _calibration(card: Card) -> list[str]:
    """How the model was calibrated, and how well it did on test galaxies."""
    by, rows = card.final.recipe.calibration, []
    for question, values in card.measured["test"].items():
        if question != "all" and values["galaxies"]:
            predicted, observed = (values[f"coverage_{kind}"] for kind in ("predicted", "observed"))
            assert isinstance(predicted, list) and isinstance(observed, list)
            rows.append(
                f"| {question} | {values['galaxies']} | {values['rmse']:.3f} | {values['dispersion']:.2f} |"
                f" {predicted[_WIDTH]:.3f} | {observed[_WIDTH]:.3f} |"
            )
    return [
        "## How it was calibrated", "",
        "The confidence was corrected on galaxies drawn at random that the model had not learnt from: log-odds times"
        f" {by.slope:.3f}, concentrations divided by {by.temperature:.3f}, spread of samples times {by.spread:.3f},"
        f" exponent of precision {by.precision_slope:.3f}. All are 1 for a head of Gaussian processes, which corrects"
        " itself in its fit.", "",
        f"On test galaxies, which it never learnt from, the loss is {card.final.test_loss:.3f} nats a galaxy. The"
        " error is the root mean square of predicted minus observed fractions, and includes the scatter of the votes"
        " received. A dispersion above 1 means over-confident. The last two columns are the share of galaxies whose"
        " votes for an answer are no farther than an eighth of all votes from the predicted number: as the model"
        " expects it, and as it was.", "",
        "| question | test galaxies | error | dispersion | expected within 1/8 | observed |",
        "|---|---|---|---|---|---|",
        *rows, "",
    ]  # fmt: skip


def croissant(card: Card, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The catalogue's metadata as JSON-LD."""
    mime = _MIME[card.settings.format]
    objects: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject", "@id": path.name, "name": path.name, "encodingFormat": mime,
            "contentUrl": path.relative_to(folder).as_posix(), "contentSize": f"{path.stat().st_size} B",
            "sha256": folders.digest_file(path),
        }
        for path in files
    ]  # fmt: skip
    source: dict[str, Any] = {"fileObject": {"@id": files[0].name}}
    if card.settings.format == "parquet":
        source = {"fileSet": {"@id": "galaxies-files"}}
        objects.append({
            "@type": "cr:FileSet", "@id": "galaxies-files", "name": "galaxies-files", "encodingFormat": mime,
            "containedIn": [{"@id": path.name} for path in files], "includes": "*.parquet",
        })  # fmt: skip
    fields = [
        {
            "@type": "cr:Field", "@id": f"galaxies/{c.name}", "name": c.name, "description": c.description,
            "dataType": _TYPES.get(c.type, "sc:Float"), "source": {**source, "extract": {"column": c.name}},
        }
        for c in card.columns
    ]  # fmt: skip
    return {
        "@context": _CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card.settings.name, "description": card.summary, "license": card.said("licence"),
        "citeAs": card.said("citation"), "version": "1.0.0", "distribution": objects,
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": "galaxies", "name": "galaxies", "key": {"@id": "galaxies/id_str"},
             "field": fields}
        ],
    }  # fmt: skip
