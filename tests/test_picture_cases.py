"""Surveys of pictures that people reported: what their shards hold, or why they hold none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from zoobot.errors import InputError
from zoobot.galaxies import tfrecords
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog, shards

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "images"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"the reported surveys are not at {CASES}")
Shown = dict[str, npt.NDArray[np.uint8]]
Build = Callable[..., tuple[Shown, Counter[str]]]


@pytest.fixture
def shards_of(compose: Callable[..., Settings], tmp_path: Path) -> Build:
    """Builds the shards of a survey: ``{id_str: pixels}``, and how many pictures were dropped for which reason."""

    def build(case: str, *overrides: str) -> tuple[Shown, Counter[str]]:
        folder = CASES / case
        s = compose(
            "stage=shards", "survey=custom", "survey.name=mine", f"survey.folder={folder}", "tracking=disabled",
            f"survey.questions={folder / 'questions.yaml'}", "catalogs.mock_labelled=30", "shards.eval_size=5",
            "shards.test_size=5", "shards.image_size_px=48", "model.final_size_px=48", *overrides,
            data_dir=tmp_path / f"{case}_{len(overrides)}",
        )  # fmt: skip
        for stage in (master_catalog, catalogs, shards):
            stage.run(s)
        config = tfrecords.load_config(s.shard_dir)
        files = [s.shard_dir / name for names in config.splits.values() for name in names]
        records = (tfrecords.decode(record, config.encoding) for file in files for record in tfrecords.read(file))
        return {id_str: pixels for id_str, pixels, _ in records}, Counter(entry.reason for entry in config.dropped)

    return build


@pytest.fixture
def reference(shards_of: Build) -> Shown:
    """The galaxies as g, r, z in nanomaggies."""
    return shards_of("01-fits-grz-reference")[0]


def furthest(shown: Shown, reference: Shown) -> int:
    assert set(shown) == set(reference) and len(shown) == 60
    return max(int(np.abs(shown[i].astype(int) - reference[i]).max()) for i in shown)


def test_bands_and_nanomaggies(reference: Shown) -> None:
    centres = [pixels[20:28, 20:28].reshape(-1, 3).mean(axis=0) for pixels in reference.values()]
    assert np.abs(np.mean(centres, axis=0) - (200, 172, 149)).max() < 45
    assert all(pixels.std() > 10 for pixels in reference.values())


def test_a_zero_point_is_followed(shards_of: Build, reference: Shown) -> None:
    assert furthest(shards_of("04-fits-zeropoint27")[0], reference) <= 1


def test_one_band_per_extension(shards_of: Build, reference: Shown) -> None:
    assert furthest(shards_of("29-fits-one-band-per-extension")[0], reference) == 0


def test_counts_are_refused_with_what_to_set(shards_of: Build) -> None:
    with pytest.raises(InputError, match=r"its unit is adu .*survey\.zero_point.*survey\.stretch=noise"):
        shards_of("05-fits-unsigned-bzero")
    shown, dropped = shards_of("05-fits-unsigned-bzero", "survey.stretch=noise")
    assert len(shown) == 60 and not dropped
    assert all((pixels == 255).all(axis=2).mean() < 0.1 and pixels.std() > 10 for pixels in shown.values())


def test_blank_pictures_are_dropped(shards_of: Build) -> None:
    with pytest.raises(InputError, match=r"the picture is blank|pixels show no galaxy"):
        shards_of("06-blank-placeholders")
    shown, dropped = shards_of("06-blank-placeholders", "max_dropped_fraction=0.5")
    assert dropped == {
        "the picture is blank: all of it has the colour (32, 32, 32)": 12,
        "1 × 1 pixels show no galaxy: 8 × 8 are needed": 6,
    }
    assert len(shown) == 42


def test_12_bits_in_16_are_as_bright_as_8(shards_of: Build, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    shown = shards_of("18-png16-rgb-12bit")[0]
    assert "60 pictures: 12 of 16 bits are used: 4095 is shown white" in caplog.text
    assert len(shown) == 60 and all(pixels.max() > 150 for pixels in shown.values())


def test_several_frames_are_refused(shards_of: Build) -> None:
    with pytest.raises(InputError, match="2 frames: one picture per galaxy is needed"):
        shards_of("28-multiframe")
