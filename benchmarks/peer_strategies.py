"""Batches chosen by scikit-activeml, bmdal_reg and batchbald_redux, in an environment that has them: a process of its
own for benchmarks/peer_speed.py.

    python benchmarks/peer_strategies.py NAME N FILE

FILE is a .npz of pool_N_H and labelled_M_H, features, label_M, classes, and probabilities_N_K_A, posterior samples.
Prints a line of JSON: CPU seconds, and the chosen rows. Importing is not counted.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Numbers = dict[str, np.ndarray]
Choose = Callable[[], Any]


def scikit_activeml(name: str, given: Numbers, n: int) -> Choose:
    """A query strategy; badge gets a fitted logistic regression."""
    from skactiveml import pool  # type: ignore[import-not-found]
    from skactiveml.classifier import SklearnClassifier  # type: ignore[import-not-found]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found]

    pool_N_H, labelled_M_H = given["pool_N_H"], given["labelled_M_H"]
    features = np.concatenate([pool_N_H, labelled_M_H])
    labels = np.concatenate([np.full(len(pool_N_H), np.nan), given["label_M"]])
    arguments = {"X": features, "y": labels, "batch_size": n}
    if name == "Badge":
        model = SklearnClassifier(LogisticRegression(max_iter=1000), classes=[0, 1]).fit(features, labels)
        arguments |= {"clf": model, "fit_clf": False}
    strategy = getattr(pool, name)(random_state=0)
    return lambda: strategy.query(**arguments)


def bmdal(name: str, given: Numbers, n: int) -> Choose:
    """A selection method on the features themselves."""
    import torch
    from bmdal_reg.bmdal.algorithms import select_batch  # type: ignore[import-not-found]
    from bmdal_reg.bmdal.feature_data import TensorFeatureData  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    vars(np)["Inf"] = np.inf  # bmdal_reg was written for numpy 1
    data = {
        part: TensorFeatureData(torch.from_numpy(given[f"{part}_{axes}"]))
        for part, axes in (("pool", "N_H"), ("labelled", "M_H"))
    }
    data = {"pool": data["pool"], "train": data["labelled"]}
    same = torch.nn.Identity()
    return lambda: select_batch(n, [same], data, None, "linear", [], name, sel_with_train=True)[0].numpy()


def batchbald(given: Numbers, n: int) -> Choose:
    """BatchBALD of Kirsch et al. 2019, one vote a galaxy."""
    import torch
    from batchbald_redux.batchbald import get_batchbald_batch  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    logarithms = torch.from_numpy(np.log(given["probabilities_N_K_A"]))
    return lambda: get_batchbald_batch(logarithms, n, 10_000, dtype=torch.double).indices


def main() -> None:
    """Choose once."""
    warnings.simplefilter("ignore")
    name, n, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    given = dict(np.load(path))
    library, _, method = name.partition(":")
    choose = {
        "scikit-activeml": lambda: scikit_activeml(method, given, n),
        "bmdal_reg": lambda: bmdal(method, given, n),
        "batchbald_redux": lambda: batchbald(given, n),
    }[library]()
    start = time.process_time()
    rows = choose()
    print(json.dumps({"cpu": time.process_time() - start, "rows": np.asarray(rows).tolist()}))


if __name__ == "__main__":
    main()
