"""The comparison with random: numbers by hand, the coverage of intervals, and how often nothing is called something."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.records import a_shard_config, a_summary, some_instructions
from zoobot import folders
from zoobot.galaxies import database
from zoobot.iterations.files import ExperimentFolder, IterationFolder, Source
from zoobot.reports import efficiency, encoders, gains, intervals
from zoobot.reports.experiments import CurvePoint, Experiment, Section
from zoobot.reports.gains import Pair

LABELS = (60, 100, 140)


@dataclass(frozen=True)
class Kept(IterationFolder):
    """The test losses of an iteration, in memory: files would take most of the time of thousands of them."""

    losses_N: np.ndarray | None = None

    @property
    def has_test_losses(self) -> bool:
        return self.losses_N is not None

    def test_losses(self) -> pa.Table:
        assert self.losses_N is not None
        return pa.table({"id_str": [str(i) for i in range(len(self.losses_N))], "loss": self.losses_N})


@dataclass(frozen=True)
class Folder(ExperimentFolder):
    """An experiment's folder, with the test losses of a fit to all labels."""

    all_N: np.ndarray | None = None

    @property
    def all_labels(self) -> IterationFolder:
        return Kept(self.path, self.all_N)


def experiment(losses_T_N: np.ndarray, votes: int = 0, all_N: np.ndarray | None = None) -> Experiment:
    """An experiment with only the labels and test losses that matter here."""
    iterations = [
        CurvePoint(
            Kept(Path(), of_N), a_summary(votes_spent=votes * number), LABELS[number], len(of_N), of_N.mean(), {}, {}
        )
        for number, of_N in enumerate(losses_T_N)
    ]
    instructions: Any = None
    return Experiment(Folder(Path(), all_N), instructions, {}, None, iterations)


Means = list[list[float]]  # of each seed, the mean losses at each iteration


def pairs(
    ours: Means, random: Means, noise: float = 0.0, n: int = 50, votes: tuple[int, int] = (0, 0),
    ceiling: Means | None = None, everything: float | None = None,
) -> list[Pair]:  # fmt: skip
    """A pair for each row of mean losses; all experiments of a pair share each galaxy's own loss."""
    found = []
    for seed, of in enumerate(zip(ours, random, ceiling or ours, strict=True)):
        own_N = noise * np.random.default_rng(seed).standard_normal(n)
        a, b, c = (np.array(means)[:, None] + own_N for means in of)
        all_N = None if everything is None else everything + own_N
        found.append(Pair(experiment(a, votes[0]), experiment(b, votes[1], all_N), experiment(c) if ceiling else None))
    return found


def value(number: float | None) -> Any:
    """A number without any spread: its interval is the number itself."""
    return pytest.approx({"value": number, "low": number, "high": number})


# --------------------------------------------------------------- by hand


def test_gain_by_hand() -> None:
    """Ours reaches random's last loss, 1.0, halfway between 60 and 100 labels: 80 of 140."""
    gain = gains.gain(pairs([[1.4, 0.6, 0.5]] * 3, [[1.4, 1.2, 1.0]] * 3), 3)
    assert gain is not None
    assert gain["labels_ratio"] == value(80 / 140)
    assert gain["area"]["value"] == pytest.approx((0 + 0.6 + 0.5) / (1.4 + 1.2 + 1.0))
    assert gain["lower"] == value((0 + 0.6 + 0.5) / 3)
    assert gain["worst"]["value"] == 0
    assert (gain["median_labels_ratio"], gain["reached"]) == (pytest.approx(80 / 140), 3)
    assert [gain[name] for name in ("votes_ratio", "gap_closed", "excess", "worst_excess")] == [None] * 4


def test_votes_the_gap_and_the_excess_by_hand() -> None:
    """Ours has spent 0, 50, 100 votes and random 0, 40, 80; ours reaches 1.0 at half of the way: 25 votes of 80.

    The ceiling gains 0, 0.9, 0.8 over random and ours 0, 0.6, 0.5. With all labels the loss is 0.2.
    """
    best, floor = [[1.4, 0.3, 0.2]] * 3, 0.2
    given = pairs([[1.4, 0.6, 0.5]] * 3, [[1.4, 1.2, 1.0]] * 3, votes=(50, 40), ceiling=best, everything=floor)
    gain = gains.gain(given, 3)
    assert gain is not None
    assert gain["votes_ratio"] == value(25 / 80)
    assert gain["gap_closed"] == value((0.6 + 0.5) / (0.9 + 0.8))
    assert gain["excess"] == value(0.3 / 0.8)
    assert gain["worst_excess"] == value(1)


def test_the_ceiling_closes_the_gap_and_random_none_of_it() -> None:
    random, best = [[1.4, 1.2, 1.0]] * 3, [[1.4, 0.8, 0.6]] * 3
    for ours, closed in ((best, 1.0), (random, 0.0)):
        gain = gains.gain(pairs(ours, random, noise=1, ceiling=best, everything=0.1), 3)
        assert gain is not None and gain["gap_closed"] == value(closed)
        assert closed or gain["excess"] == value(1)


def test_only_pairs_with_a_ceiling_are_asked_for_the_gap() -> None:
    given = pairs([[1.4, 1.0, 0.8], [9, 9, 9]], [[1.4, 1.2, 1.0]] * 2, ceiling=[[1.4, 0.8, 0.6]] * 2)
    gain = gains.gain([given[0], Pair(given[1].chosen, given[1].random)], 3)
    assert gain is not None and gain["gap_closed"] == value(0.5)


def test_a_share_of_nothing_is_not_a_number() -> None:
    """Random is as good as the ceiling, and as a fit to all labels: there is no gap to close."""
    random = [[1.4, 1.2, 1.0]] * 3
    gain = gains.gain(pairs([[1.4, 1.1, 0.9]] * 3, random, ceiling=random, everything=1.0), 3)
    assert gain is not None and gain["gap_closed"] == value(None) and gain["excess"] == value(None)


def test_what_is_never_reached_is_none_and_worse_is_said() -> None:
    gain = gains.gain(pairs([[1.4, 1.5, 1.3]] * 3, [[1.4, 1.2, 1.0]] * 3), 3)
    assert gain is not None and gain["labels_ratio"]["value"] is None and gain["median_labels_ratio"] is None
    assert gain["reached"] == 0 and gain["worst"]["value"] == pytest.approx(0.3)
    assert gain["area"]["high"] < 0


def test_without_test_losses_there_is_no_gain() -> None:
    of = pairs([[1.0, 0.9, 0.8]] * 2, [[1.0, 0.9, 0.8]] * 2)
    first = of[0].chosen.iterations[0]
    of[0].chosen.iterations[0] = replace(first, folder=Kept(Path()))
    assert gains.gain(of, 3) is None


def test_random_against_random_by_hand() -> None:
    """Seed 1 has seed 0's losses and 0.3 more in the mean, 0.6 + 0.9 - 0.6 of it at each point.

    Means: 1.2 and 1.5. Seed 0 (1.4 1.2 1.0) must fall to 0.7 - 0.3, and never does; seed 1 (2.0 1.8 0.7) must fall to
    1.0 + 0.3, and does 0.5 / 1.1 of the way from 100 to 140 labels.
    """
    line = [experiment(np.array(means)[:, None]) for means in ([1.4, 1.2, 1.0], [2.0, 1.8, 0.7])]
    null = efficiency.against_itself(line)
    assert null == {"median_labels_ratio": None, "reached": 0.5, "pairs": 2}
    assert efficiency.against_itself(line[:1]) is None and efficiency.against_itself([]) is None
    same = efficiency.against_itself([line[0]] * 3)
    assert same == {"median_labels_ratio": 1.0, "reached": 1.0, "pairs": 6}


def test_random_seems_to_need_fewer_labels_than_random() -> None:
    """Noisy curves fall below their end early: the median is below 100 %, though no seed is better than another."""
    random = np.random.default_rng(0)
    falling = [1.4, 1.2, 1.1] + 0.1 * random.standard_normal((12, 3))
    null = efficiency.against_itself([experiment(of[:, None]) for of in falling])
    assert null is not None and null["median_labels_ratio"] < 1 and 0.4 < null["reached"] < 0.9


def test_the_error_of_shared_galaxies_by_hand() -> None:
    """Seed means 1 and 3: s² / P = 2 / 2. Parts of the error from galaxies: ±1 / (2 × 2) in each seed. If both seeds
    test the same two, and agree, each gives (2/4)² - 2 (1/4)² = 1/8; if they test others, nothing.
    """
    first, second = np.array([0.0, 2.0]), np.array([2.0, 4.0])
    assert intervals.crossed_error([(["a", "b"], first), (["c", "d"], second)]) == pytest.approx(1)
    assert intervals.crossed_error([(["a", "b"], first), (["a", "b"], second)]) == pytest.approx(np.sqrt(1 + 2 / 8))
    opposed = intervals.crossed_error([(["a", "b"], first), (["a", "b"], second[::-1])])
    assert opposed == pytest.approx(1), "what would lower the error is not believed"


def test_p_values_and_their_correction_by_hand() -> None:
    assert intervals.p_value(-0.2, 0.1 / np.sqrt(3), 3) == pytest.approx(stats.ttest_1samp([-0.2, -0.3, -0.1], 0)[1])
    assert (intervals.p_value(0, 0, 3), intervals.p_value(1, 0, 3)) == (1, 0)
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 × .01, max(2 × .03, 1 × .04)
    assert intervals.holm([0.9, 0.8]) == [1, 1] and intervals.holm([]) == []
    assert intervals.student(10) == pytest.approx(2.262, abs=1e-3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_a_correction_never_helps_and_keeps_the_order(p_values: list[float], shuffler: Any) -> None:
    corrected = intervals.holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) + 1e-12 for p, q in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(1, len(p_values) * min(p_values))
    both = list(zip(p_values, corrected, strict=True))
    shuffler.shuffle(both)
    assert intervals.holm([p for p, _ in both]) == [q for _, q in both]


# --------------------------------------------------------------- intervals


def test_a_galaxy_has_the_same_weight_in_every_seed_that_tests_it() -> None:
    losses = np.random.default_rng(0).random((1, 40))
    ids = [str(i) for i in range(40)]
    same, reordered = intervals.Tested(ids, losses), intervals.Tested(ids[::-1], losses[:, ::-1])
    other = intervals.Tested([f"other {i}" for i in ids], losses)
    means = intervals.mean_losses({"a": same, "b": reordered, "c": other})
    assert means["a"] == pytest.approx(means["b"])
    assert abs(np.corrcoef(means["a"][1:, 0], means["c"][1:, 0])[0, 1]) < 0.1
    assert means["a"][0] == pytest.approx(losses.mean()) == means["c"][0]
    assert means["a"][1:].std() == pytest.approx(losses.std() / np.sqrt(40), rel=0.1)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_weights_of_seeds_give_a_mean_its_variance(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "REPLICATES", 20_000)
    values_P = np.random.default_rng(n).standard_normal(n)
    weights_R_P = intervals.seed_weights(n)[1:]
    means_R = weights_R_P @ values_P / weights_R_P.sum(axis=1)
    assert means_R.std() == pytest.approx(values_P.std(ddof=1) / np.sqrt(n), rel=0.05)


def test_an_interval_needs_nearly_all_replicates() -> None:
    values_R = np.arange(101.0)
    values_R[1:3] = np.nan
    assert intervals.with_interval(values_R) == {"value": 0, "low": 4.0, "high": 98.0}
    values_R[1:5] = np.nan
    assert intervals.with_interval(values_R) == {"value": 0, "low": None, "high": None}


def test_the_interval_covers_seeds_and_galaxies_and_equal_choices_are_no_gain() -> None:
    random = np.random.default_rng(0)
    ours = [[1.4, *(1.2 + 0.05 * random.standard_normal(2))] for _ in range(10)]
    others = [[1.4, *(1.2 + 0.05 * random.standard_normal(2))] for _ in range(10)]
    gain = gains.gain(pairs(ours, others, noise=1.0), 3)
    assert gain is not None
    assert gain["area"]["low"] < 0 < gain["area"]["high"]


def test_no_gain_is_found_in_about_one_of_twenty_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 12 pairs; percentile intervals of a mean are a little short, so up to 1 in 8 passes."""
    monkeypatch.setattr(intervals, "REPLICATES", 100)
    random, found = np.random.default_rng(1), 0
    for _ in range(60):
        both = 1.2 + 0.05 * random.standard_normal((2, 12, 3))
        gain = gains.gain(pairs(both[0].tolist(), both[1].tolist(), n=5), 3)
        found += gain is not None and not gain["area"]["low"] <= 0 <= gain["area"]["high"]
    assert found <= 60 / 8


SECTIONS, FUNCTIONS, SEEDS, TESTED, DISTINCT = 200, 5, 8, 60, 150


def sections(random: np.random.Generator, gain: float = 0.0) -> list[list[tuple[float, float]]]:
    """Simulated sections: for each function the mean difference and its p-value. Seeds test galaxies drawn from a
    common set; functions share random's losses, so their differences are correlated.
    """
    found = []
    for _ in range(SECTIONS):
        tested = [random.choice(DISTINCT, TESTED, replace=False) for _ in range(SEEDS)]
        of_random = 0.05 * random.standard_normal(SEEDS)
        of_function = []
        for _ in range(FUNCTIONS):
            galaxy, seed = 0.2 * random.standard_normal(DISTINCT), 0.05 * random.standard_normal(SEEDS) - of_random
            apart = [seed[p] - gain + galaxy[at] + 0.3 * random.standard_normal(TESTED) for p, at in enumerate(tested)]
            mean = float(np.mean([of.mean() for of in apart]))
            error = intervals.crossed_error([([*map(str, at)], of) for at, of in zip(tested, apart, strict=True)])
            of_function.append((mean, intervals.p_value(mean, error, SEEDS)))
        found.append(of_function)
    return found


def called(of_function: list[tuple[float, float]], *, corrected: bool = True) -> int:
    """How many functions of a section are called different from random."""
    p_values = [p for _, p in of_function]
    found = intervals.holm(p_values) if corrected else p_values
    verdicts = [efficiency.verdict(mean, p) for (mean, _), p in zip(of_function, found, strict=True)]
    return sum(verdict in ("better than random", "worse than random") for verdict in verdicts)


def test_where_nothing_differs_from_random_at_most_one_section_in_twenty_names_a_function() -> None:
    """Within three standard errors of 200 sections. Without the correction it is two to four times as many."""
    null = sections(np.random.default_rng(0))
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / SECTIONS)
    assert np.mean([called(section) > 0 for section in null]) <= allowed
    assert np.mean([called(section, corrected=False) > 0 for section in null]) > allowed
    assert np.mean([called(section) for section in sections(np.random.default_rng(1), gain=0.12)]) > FUNCTIONS / 2


def test_an_interval_of_a_ratio_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the gap closed is 0.5; eight seeds, in 60 trials: 95 % of 60 is 57, and 51 is 3.5 errors below."""
    monkeypatch.setattr(intervals, "REPLICATES", 200)
    random, covered = np.random.default_rng(3), 0
    for _ in range(60):
        noise = [0, 0.04, 0.04] * random.standard_normal((3, 8, 3))
        others, ours, best = ([1.4, *of] + noise[i] for i, of in enumerate(([1.2, 1.0], [1.1, 0.9], [1.0, 0.8])))
        given = pairs(ours.tolist(), others.tolist(), 0.5, 20, ceiling=best.tolist())
        gain = gains.gain(given, 3)
        assert gain is not None
        covered += gain["gap_closed"]["low"] <= 0.5 <= gain["gap_closed"]["high"]
    assert covered >= 51


# --------------------------------------------------------------- what the encoder had seen


def an_encoder(folder: Path, max_galaxies: int) -> tuple[Source, Path]:
    """The record of an encoder that was trained on a pool of the galaxies 2 to 9, four to a shard; and its shards."""
    shards, encoder = folder / "shards", folder / f"encoder{max_galaxies}"
    if not shards.exists():
        with folders.create(shards, {}, {}) as staging:
            config = a_shard_config(splits={"pool": ["pool_0", "pool_1"]}, galaxies={"pool": 8})
            folders.write_record(staging / "shard_config.json", config)
            database.create(staging / config.database)
            with database.connect(staging / config.database) as connection:
                rows = [(str(n), "x.png", "pool", f"pool_{(n - 2) // 4}", (n - 2) % 4) for n in range(2, 10)]
                database.add_galaxies(connection, rows)
    with folders.create(encoder, {"pretrain.max_galaxies": max_galaxies}, {"shards": shards}):
        pass
    return Source(f"../../{encoder.name}", folders.digest_of(encoder)), shards


def a_section(folder: Path, encoder_of: dict[int, Source | None]) -> Section:
    """An experiment for each seed; all test the galaxies 0 to 7."""
    line = []
    for seed, encoder in encoder_of.items():
        e = experiment(np.zeros((1, 8)))
        instructions = some_instructions(seed=seed, shards=Source("", f"{seed}"), encoder=encoder)
        line.append(replace(e, folder=Folder(folder / f"e{seed}"), instructions=instructions))
    return Section(("survey", "task", "model"), {}, {"random": line}, [])


def test_what_an_encoder_had_seen_of_the_test_galaxies(tmp_path: Path) -> None:
    """Galaxies 2 to 7 of 0 to 7 are in its pool, 2 to 5 in the pool's first shard."""
    everything, shards = an_encoder(tmp_path, 0)
    shared = encoders.of_section(a_section(tmp_path, {0: everything, 1: everything}))
    assert shared == {"encoders": 1, "pairs": 2, "test_pictures_seen": 6 / 8, "most_seen": 6 / 8}
    some, _ = an_encoder(tmp_path, 3)
    own = encoders.of_section(a_section(tmp_path, {0: everything, 1: some}))
    assert own == {"encoders": 2, "pairs": 2, "test_pictures_seen": 5 / 8, "most_seen": 6 / 8}
    assert encoders.of_section(a_section(tmp_path, {0: None})) is None
    shards.rename(tmp_path / "elsewhere")
    unknown = encoders.of_section(a_section(tmp_path, {0: everything}))
    assert unknown is not None and unknown["test_pictures_seen"] is None and unknown["encoders"] == 1
