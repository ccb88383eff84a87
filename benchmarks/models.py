"""How well each model predicts votes under each likelihood, on the demo survey and on real galaxies.

    python -m benchmarks.models --real ../shared/realdata          # demo, gz2, gz2_tree, sdss: hours on two cores
    python -m benchmarks.models demo --models small_cnn pretrained  # a part of it

Each row is one simulated iteration on galaxies drawn at random; the pool keeps enough pictures to pretrain an encoder.
The metrics are those in metrics.json for the test galaxies, also drawn at random (docs/metrics.md explains them): means
over questions, weighted by their galaxies, and the log score of all votes on a galaxy. With --folder, finished rows are
not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LIKELIHOODS = ("multinomial", "dirichlet_multinomial")
LONG = ("model.max_epochs=150", "model.patience=20")
MODELS: dict[str, tuple[str, ...]] = {
    "small_cnn": ("model=small_cnn", *LONG),
    "small_cnn, ensemble of 5": ("model=small_cnn", *LONG, "model.ensemble=5"),
    "cnn": ("model=cnn", *LONG),
    "pretrained": ("model=pretrained",),
    "pretrained, trained further": (
        "model=pretrained", "model.train=all", "model.learning_rate=0.0003", "model.dropout_rate=0.3",
        "model.batch_size=32", "model.orientations=1", *LONG,
    ),
}  # fmt: skip
METRICS = ("rmse", "mae", "accuracy", "coverage_error", "dispersion")


def surveys(real: Path) -> dict[str, tuple[str, ...]]:
    """The settings of each survey, with 64-pixel images."""
    gz2 = ("survey=gz2", f"survey.folder={real / 'gz2'}", "survey.retirement_votes=20", *_sizes(270, 50, 120))
    sdss = ("survey=custom", "survey.name=sdss", f"survey.folder={real / 'sdss'}", "survey.catalog=catalog.csv")
    return {
        "demo": _sizes(1700, 200, 500),
        "gz2": (*gz2, "pretrain.epochs=30"),
        "gz2_tree": (*gz2, "task=gz2_tree", "pretrain.epochs=30"),
        "sdss": (*sdss, "survey.retirement_votes=0", "shards.crop=0.5", "pretrain.epochs=30", *_sizes(1660, 200, 800)),
    }


def _sizes(labelled: int, evaluated: int, tested: int) -> tuple[str, ...]:
    return f"catalogs.mock_labelled={labelled}", f"shards.eval_size={evaluated}", f"shards.test_size={tested}"


def measure(settings: tuple[str, ...], data_dir: Path) -> dict[str, dict[str, float]]:
    """The metrics on the test galaxies. The log of run.py goes to standard error."""
    name = next(s for s in settings if s.startswith("experiment_name=")).partition("=")[2]
    done = data_dir / "experiments" / "simulations" / name / "iteration_0" / "metrics.json"
    common = ("stage=simulate", "simulate.iterations=1", "acquisition=random", "tracking=disabled", "oracle=known")
    command = [sys.executable, "run.py", *common, *settings, f"data_dir={data_dir}"]
    if not done.is_file():
        subprocess.run(command, check=True, stdout=sys.stderr)
    metrics: dict[str, dict[str, float]] = json.loads(done.read_text(encoding="utf-8"))["test"]
    return metrics


def row(metrics: dict[str, dict[str, float]]) -> str:
    """The cells of a row of the table."""
    questions = [values for name, values in metrics.items() if name != "all" and values["galaxies"]]
    weights = [values["galaxies"] for values in questions]
    means = [np.average([values[metric] for values in questions], weights=weights) for metric in METRICS]
    return " | ".join(f"{value:.3f}" for value in (*means, -metrics["all"]["loss"]))


def main() -> None:
    """Print a Markdown table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("surveys", nargs="*", help="of demo, gz2, gz2_tree, sdss; default: all")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--real", type=Path, default=Path("../shared/realdata"), help="the folder of gz2/ and sdss/")
    parser.add_argument("--folder", type=Path, help="where data and results stay; default: a temporary folder")
    arguments = parser.parse_args()
    known = surveys(arguments.real.resolve())
    print(f"| survey | model | likelihood | {' | '.join(METRICS)} | log score |\n|{'---|' * (len(METRICS) + 4)}")
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = (arguments.folder or Path(temporary)).resolve()
        for survey in arguments.surveys or known:
            for model in arguments.models:
                for likelihood in LIKELIHOODS if model != "pretrained" else LIKELIHOODS[1:]:  # only these for a head
                    name = f"{survey}-{model}-{likelihood}".replace(", ", "-").replace(" ", "-")
                    settings = (*known[survey], *MODELS[model], f"model.likelihood={likelihood}")
                    cells = row(measure((*settings, f"experiment_name={name}"), data_dir))
                    print(f"| {survey} | {model} | {likelihood} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
