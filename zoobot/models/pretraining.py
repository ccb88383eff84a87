"""Train an encoder on galaxies without votes: two random views of one galaxy should get similar features, views of
different galaxies different ones (SimCLR, Chen et al. 2020, arXiv 2002.05709). Axes: N galaxies, D projected features.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from zoobot.engine.seeds import number
from zoobot.errors import InputError
from zoobot.models import encoders
from zoobot.models.architectures import OFFSET, SCALE, Tensor
from zoobot.models.views import RandomView
from zoobot.settings import ModelSettings, PretrainSettings

# Changes that leave a galaxy's shape as it is: a factor of brightness and an exponent of it, e^(s n) with normal n. Its
# colours and its noise stay, because they tell galaxies apart (docs/results/encoders.md).
ZOOM, BRIGHTNESS, GAMMA = 0.8, 0.25, 0.3
GREY_SHARE, BLUR_SHARE, DARKEST = 0.2, 0.4, 1e-4
HIDDEN, PROJECTED = 256, 128  # sizes of the layers between features and loss, which are discarded afterwards
WEIGHT_DECAY, WARM_UP_STEPS = 1e-4, 50


def train(
    encoder: keras.Model,
    images: tf.data.Dataset,
    steps_per_epoch: int,
    model: ModelSettings,
    pretrain: PretrainSettings,
) -> dict[str, list[float]]:
    """Train the encoder on batches of stored images (N × H × W × C, uint8), each read once per epoch.

    Returns a list per epoch: ``loss``, nats per view, and ``accuracy``, the share of views whose twin is the nearest
    of all views in the batch. Raises InputError if the loss is not finite.
    """
    tf.config.experimental.enable_op_determinism()
    trainer = _build_trainer(encoder, model, pretrain)
    n_steps = pretrain.epochs * steps_per_epoch
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, n_steps, warmup_target=pretrain.learning_rate, warmup_steps=min(WARM_UP_STEPS, n_steps // 2)
    )
    trainer.compile(keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY))
    history = trainer.fit(images, epochs=pretrain.epochs, shuffle=False, verbose=0).history
    if not all(map(math.isfinite, history["loss"])):
        raise InputError(
            f"Pretraining diverged: the loss was not finite. Nothing was published. Lower pretrain.learning_rate (now"
            f" {pretrain.learning_rate}) and start again."
        )
    return {name: [float(value) for value in history[name]] for name in ("loss", "accuracy")}


def _build_trainer(encoder: keras.Model, model: ModelSettings, pretrain: PretrainSettings) -> keras.Model:
    images = keras.Input(encoder.input_shape[1:], dtype="uint8")
    scaled = encoders.prepare(images, model)
    views = []
    for name in ("first view", "second view"):
        turned = RandomView(rotate=True, zoom=ZOOM, seed=number(pretrain.seed, "pretraining", name))(scaled)
        views.append(RandomLight(number(pretrain.seed, "pretraining", name, "light"))(turned))
    features = encoder.get_layer("convolutions")(keras.layers.Concatenate(axis=0)(views))
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Dense(HIDDEN)(features)))
    return ContrastiveTrainer(images, keras.layers.Dense(PROJECTED)(hidden), pretrain.temperature)


class ContrastiveTrainer(keras.Model):
    """Stored images → the projections of two views of each, first views before second ones."""

    def __init__(self, images: Tensor, projected: Tensor, temperature: float) -> None:
        super().__init__(images, projected)
        self._temperature = temperature
        self._accuracy = keras.metrics.Mean(name="accuracy")

    def compute_loss(
        self, x: Tensor = None, y: Tensor = None, y_pred: Tensor = None, *_: Tensor, **__: Tensor
    ) -> Tensor:
        """The contrastive loss of the projections; no votes are used."""
        loss, accuracy = contrastive_loss(y_pred, self._temperature)
        self._accuracy.update_state(accuracy)
        return loss


def contrastive_loss(projected_2N_D: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent (Chen et al. 2020, eq. 1) of N first views followed by their N twins: its mean over views, in nats, and
    the share of views whose nearest view is their twin.

    Similarity is the cosine divided by ``temperature``; each view must pick its twin among all others.
    """
    unit = tf.math.l2_normalize(tf.cast(projected_2N_D, tf.float32), axis=1)
    n_views = tf.shape(unit)[0]
    similarity = tf.linalg.set_diag(tf.matmul(unit, unit, transpose_b=True) / temperature, tf.fill([n_views], -1e9))
    twin = tf.math.floormod(tf.range(n_views) + n_views // 2, n_views)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(twin, similarity)
    nearest = tf.argmax(similarity, axis=1, output_type=tf.int32)
    return tf.reduce_mean(loss), tf.reduce_mean(tf.cast(nearest == twin, tf.float32))


class RandomLight(keras.layers.Layer):
    """Random changes of each scaled image: brightness, contrast, sometimes grey and sometimes blurred."""

    def __init__(self, seed: int) -> None:
        super().__init__(dtype="float32")  # also where networks compute in float16
        self._random = keras.random.SeedGenerator(seed)

    def call(self, scaled: Tensor, training: bool = False) -> Tensor:
        """Images N × H × W × C as ``encoders.prepare`` gives them; unchanged unless ``training``."""
        if not training:
            return scaled
        n, channels = keras.ops.shape(scaled)[0], scaled.shape[-1]
        light = (scaled - OFFSET) / (255 * SCALE)  # 0 to 1
        light = light * keras.ops.exp(keras.random.normal((n, 1, 1, 1), 0.0, BRIGHTNESS, seed=self._random))
        gamma = keras.ops.exp(keras.random.normal((n, 1, 1, 1), 0.0, GAMMA, seed=self._random))
        light = keras.ops.maximum(light, DARKEST) ** gamma
        grey = keras.ops.mean(light, axis=-1, keepdims=True) * keras.ops.ones_like(light)
        light = keras.ops.where(self._happens(n, GREY_SHARE), grey, light)
        light = keras.ops.where(self._happens(n, BLUR_SHARE), _blur(light, channels), light)
        return keras.ops.clip(light, 0.0, 1.0) * (255 * SCALE) + OFFSET

    def _happens(self, n: Tensor, share: float) -> Tensor:
        return keras.random.uniform((n, 1, 1, 1), seed=self._random) < share


def _blur(light: Tensor, channels: int) -> Tensor:
    """Blur each point to a spot with a standard deviation of about 1.4 pixels, as worse seeing does."""
    row = tf.constant([1.0, 8.0, 28.0, 56.0, 70.0, 56.0, 28.0, 8.0, 1.0]) / 256  # binomial, variance 2
    across = tf.tile(row[None, :, None, None], [1, 1, channels, 1])
    once = tf.nn.depthwise_conv2d(light, across, [1, 1, 1, 1], "SAME")
    return tf.nn.depthwise_conv2d(once, tf.transpose(across, [1, 0, 2, 3]), [1, 1, 1, 1], "SAME")
