"""Query strategies of scikit-activeml, in an environment that has it: a process of its own for benchmarks/peers.py.

Each line on standard input is: STRATEGY N SEED FILE. FILE is a .npz of X, standardised features, y, the class of each
row or NaN, and classes. The N rows that the strategy chooses go to FILE.rows.npy, and then a line to standard output.
"""

import sys
import warnings

import numpy as np
from skactiveml import pool  # type: ignore[import-not-found]
from skactiveml.classifier import SklearnClassifier  # type: ignore[import-not-found]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found]
from threadpoolctl import threadpool_limits

ASKS_CLASSIFIER = ("Badge", "DropQuery", "Falcun")


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")  # a class that nobody has seen yet
    with threadpool_limits(1):
        for line in sys.stdin:
            name, n, seed, path = line.split()
            with np.load(path) as given:
                arguments, classes = {"X": given["X"], "y": given["y"], "batch_size": int(n)}, given["classes"]
            if name in ASKS_CLASSIFIER:
                model = LogisticRegression(C=1 / 250, max_iter=1000)
                fitted = SklearnClassifier(model, classes=classes).fit(arguments["X"], arguments["y"])
                arguments |= {"clf": fitted, "fit_clf": False}
            rows = getattr(pool, name)(random_state=int(seed)).query(**arguments)
            np.save(f"{path}.rows.npy", np.asarray(rows, dtype=np.int64))
            print("done", flush=True)


if __name__ == "__main__":
    main()
