"""The likelihood of vote counts: what the head predicts for a question, and the loss.

A question with counts k_a of N votes, and predicted values x_a with sum X, has the log likelihood

    log C(N; k) + sum_a power(x_a, k_a) - power(X, N),

where ``power`` is k log x under the multinomial (x are probabilities) and the log of the rising factorial
x (x + 1) … (x + k - 1) under the Dirichlet-multinomial (x are concentrations). For two answers these are the binomial
and the beta-binomial. The loss leaves out the coefficient C(N; k), which does not depend on the weights.
zoobot/metrics has the same likelihoods in numpy. Axes: N galaxies, A answers of all questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from zoobot.galaxies.tasks import Group
from zoobot.metrics import LIKELIHOODS, SMALLEST_CONCENTRATION, SMALLEST_VALUE

Tensor: TypeAlias = Any  # TensorFlow's types do not say
Loss = Callable[[Tensor, Tensor], Tensor]
# A Dirichlet's precision is the sum of its concentrations. At the highest, 40 votes have 1 % more variance than
# multinomial votes. At the lowest, all volunteers agree about a galaxy, and only their common answer is uncertain.
# Weights near 0 start in the middle of the log scale, at 50.
LOWEST_PRECISION, HIGHEST_PRECISION = 0.5, 5000.0


def outputs(likelihood: str, hidden: Tensor, n_answers: int, name: str) -> Tensor:
    """Hidden values N × H → x of one question: probabilities, or concentrations (mean times precision).

    The mean is learnt as under the multinomial; the precision is bounded, on a log scale.
    """
    mean = keras.layers.Dense(n_answers, activation="softmax", name=name)(hidden)
    if not LIKELIHOODS[likelihood].concentrations:
        return mean
    share = keras.layers.Dense(1, activation="sigmoid", name=f"{name}_precision")(hidden)
    precision = LOWEST_PRECISION * keras.ops.exp(math.log(HIGHEST_PRECISION / LOWEST_PRECISION) * share)
    return mean * precision + SMALLEST_CONCENTRATION


def _power(x: Tensor, k: Tensor) -> Tensor:
    return k * tf.math.log(tf.maximum(x, tf.cast(SMALLEST_VALUE, x.dtype)))


def _rising_power(x: Tensor, k: Tensor) -> Tensor:
    return tf.math.lgamma(x + k) - tf.math.lgamma(x)


def loss(likelihood: str, groups: Sequence[Group]) -> Loss:
    """The loss ``(counts_N_A, outputs_N_A) → N``: minus the log likelihood of all votes, in nats per galaxy.

    It is the sum over questions, not their mean: with a mean, a question would count less the more questions there
    are (Walmsley et al. 2022, MNRAS 509, 3966, sum too). A question that nobody was asked has no votes and adds 0. For
    a single question under the multinomial this is Walmsley et al. 2020, MNRAS 491, 1554, eq. 4.
    """
    sizes = [len(group.answers) for group in groups]
    power = _rising_power if LIKELIHOODS[likelihood].concentrations else _power

    def negative_log_likelihood(counts_N_A: Tensor, outputs_N_A: Tensor) -> Tensor:
        # float64: lgamma of a million votes is 1e7, where float32 is only exact to a nat
        counts = tf.split(tf.cast(counts_N_A, tf.float64), sizes, axis=-1)
        outputs = tf.split(tf.cast(outputs_N_A, tf.float64), sizes, axis=-1)
        log_likelihood_N = sum(
            tf.reduce_sum(power(x, k), axis=-1) - power(tf.reduce_sum(x, axis=-1), tf.reduce_sum(k, axis=-1))
            for x, k in zip(outputs, counts, strict=True)
        )
        return tf.cast(-log_likelihood_N, tf.float32)

    return negative_log_likelihood
