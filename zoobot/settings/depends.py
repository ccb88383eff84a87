"""Which settings the output of each stage depends on."""

from __future__ import annotations

import dataclasses

from zoobot.settings.schema import Settings

# What an experiment asks, who answers, and when a galaxy has votes enough. How it connects, and what is written beside
# a subject (priority, predictions), is not included: that may change from day to day.
ORACLE_FIXED = ("kind", "votes_per_galaxy", "control_per_iteration", "control_votes", "late_fraction",
                "anonymous_fraction", "endpoint", "project_id", "workflow_ids", "last_classification_id",
                "retire_confident")  # fmt: skip
# The shape of an encoder depends on these settings, and on the size of the stored images.
ENCODER_SHAPE = ("architecture", "blocks", "hidden", "colour", "final_size_px")
# Which classifications count, in files and in live work.
_COUNTED = ("reduce.anonymous_repeats", "reduce.before_launch", "reduce.gold_standard")
PICTURES = ("survey.bands", "survey.zero_point", "survey.stretch")  # how a FITS image is shown
# What each stage's output depends on, besides its inputs. The user's own folders are left out, so that data can be
# moved.
DEPENDS_ON = {
    "reduce": ("survey.questions", *_COUNTED, "reduce.caesar_reducers"),
    "master_catalog": ("survey.kind", "survey.name", "survey.questions", "survey.samples", "survey.n_galaxies",
                       "survey.draw_size_px", "survey.draw_seed", "survey.world", "survey.id_str", "survey.file_loc",
                       "survey.path_prefix"),
    "catalogs": ("survey.name", "survey.questions", "survey.retirement_votes", "survey.same_within_arcsec", "task",
                 "catalogs"),
    "shards": ("survey.name", *PICTURES, "survey.max_pixels", "survey.features_column", "task", "shards"),
    "pretrain": ("survey.name", "pretrain", *(f"model.{key}" for key in ENCODER_SHAPE)),
    "instructions": ("survey.name", *PICTURES, "survey.questions", "survey.retirement_votes", "task", "model",
                     "acquisition", *(f"oracle.{key}" for key in ORACLE_FIXED), "iterate.subjects_per_iteration",
                     "iterate.shards_per_iteration", "iterate.gate_margin", "iterate.keep_better", "seed",
                     *_COUNTED),
    "finish": ("finish",),  # and on all that the instructions depend on
    "predict": ("survey.name", "predict"),
}  # fmt: skip


def stage_settings(settings: Settings, stage: str) -> dict[str, object]:
    """The settings that the output of ``stage`` depends on: ``{full key: value}``."""
    flat = flatten(dataclasses.asdict(settings))
    wanted = DEPENDS_ON[stage]
    return {key: value for key, value in flat.items() if any(key == w or key.startswith(w + ".") for w in wanted)}


def flatten(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as ``{full key: value}``."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


DEFAULTS = flatten(dataclasses.asdict(Settings()))  # the default of every setting, by its full key
