"""How fast stage=shards is, compared with a bare loop that decodes and resizes in one process per core.

    python -m benchmarks.shards [JPEG|PNG ...]

Pictures have 424 px. Both read the same files, from the system's memory, in turn, three times. The rate of the stage is
that of more pictures: from the difference of a run with all and one with a quarter of them, so that neither counts the
start of processes. Rates are per second of processor time, times the cores, because other programs run beside; in
brackets per second. OpenCV and imagecodecs, which the program does not use, are measured if they are installed.
"""

from __future__ import annotations

import importlib.util
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import ratios
from benchmarks.networks import settings_of, show_load
from zoobot.engine.map import cores
from zoobot.galaxies.images import resize
from zoobot.galaxies.pictures import Reduced, reduction
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog, shards

SIDE_PX, SIZES_PX = 424, (64, 128, 224)
N = {"JPEG": 4000, "PNG": 1000}
REPEATS = 3
Seconds = tuple[float, float]  # of the processor, of the clock


# --------------------------------------------------------------- bare loops


def by_package(path: str, size_px: int) -> None:
    """The decoders of the program, and its resize."""
    content = Path(path).read_bytes()
    if content.startswith(b"\xff"):
        simplejpeg = importlib.import_module("simplejpeg")
        by = reduction(SIDE_PX, 3 * size_px // 2)
        side = SIDE_PX // by
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=side, min_width=side, min_factor=1)
        resize(pixels, size_px, 3, 1.0, Reduced(by, SIDE_PX, SIDE_PX) if by > 1 else None)
    else:
        resize(importlib.import_module("pyspng").load(content, "RGB"), size_px, 3)


def by_pillow(path: str, size_px: int) -> None:
    """Pillow alone, from the full picture by Lanczos: how shards were made before."""
    with Image.open(path) as picture:
        np.asarray(picture.convert("RGB").resize((size_px, size_px), Image.Resampling.LANCZOS))


def by_opencv(path: str, size_px: int) -> None:
    """OpenCV: JPEG at a fraction of its size, then the means of areas. Its pixels are others."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    content = np.fromfile(path, np.uint8)
    by = reduction(SIDE_PX, size_px) if content[0] == 0xFF else 1
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[by]
    small = cv2.resize(cv2.imdecode(content, flag), (size_px, size_px), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def by_both(path: str, size_px: int, decoder: str) -> None:
    """The decoder of another package for PNG, then OpenCV's means of areas."""
    cv2, content = importlib.import_module("cv2"), Path(path).read_bytes()
    cv2.setNumThreads(1)
    package = importlib.import_module(decoder)
    pixels = package.load(content, "RGB") if decoder == "pyspng" else package.png_decode(content)
    cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_AREA)


def loops(file_format: str) -> dict[str, Callable[[str, int], None]]:
    """The bare loops whose packages are installed."""
    found: dict[str, Callable[[str, int], None]] = {"ours, bare": by_package, "Pillow": by_pillow}
    if importlib.util.find_spec("cv2"):
        found["OpenCV"] = by_opencv
        if file_format == "PNG":
            found |= {f"{name} + OpenCV": partial(by_both, decoder=name) for name in ("pyspng", "imagecodecs")
                      if importlib.util.find_spec(name)}  # fmt: skip
    return found


def loop(one: Callable[[str, int], None], size_px: int, paths: Sequence[str]) -> float:
    """Decode and resize; the processor's seconds."""
    start_s = time.process_time()
    for path in paths:
        one(path, size_px)
    return time.process_time() - start_s


def bare(pool: ProcessPoolExecutor, one: Callable[[str, int], None], size_px: int, paths: Sequence[str]) -> Seconds:
    """The loop in one process per core, each with its share."""
    start_s = time.perf_counter()
    cpu_s = sum(pool.map(partial(loop, one, size_px), [paths[k :: cores()] for k in range(cores())]))
    return cpu_s, time.perf_counter() - start_s


# --------------------------------------------------------------- the stage


def write_survey(folder: Path, file_format: str) -> list[str]:
    """A survey of galaxies with noise; each file differs, by a number behind its end."""
    drawn = [_draw(seed, file_format) for seed in range(24)]
    paths = [folder / f"{number:06d}.{file_format.lower()}" for number in range(N[file_format])]
    for number, path in enumerate(paths):
        path.write_bytes(drawn[number % len(drawn)] + number.to_bytes(4))
    votes = {"smooth-or-featured_smooth": 20, "smooth-or-featured_featured-or-disk": 20,
             "smooth-or-featured_artifact": 1}  # fmt: skip
    ids = [path.stem for path in paths]
    pd.DataFrame({"id_str": [f"g{i}" for i in ids], "file_loc": [p.name for p in paths], **votes}).to_csv(
        folder / "catalog.csv", index=False
    )
    return [str(path) for path in paths]


def _draw(seed: int, file_format: str) -> bytes:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-212:212, -212:212] + random.uniform(-9, 9, (2, 1, 1))
    radius = np.hypot(x, 1.3 * y) + 1
    light = 200 * np.exp(-radius / 40) * (1 + 0.5 * np.cos(2 * np.arctan2(y, x) - 5 * np.log(radius)))
    pixels = light[:, :, None] * [1, 0.9, 0.7] + random.normal(25, 5, (424, 424, 3))
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, file_format)
    return content.getvalue()


def stage(settings: Settings, number: int) -> Seconds:
    """Make the shards anew."""
    s = replace(settings, shards=replace(settings.shards, name=f"shards_{number}"))
    start_s, start_cpu_s = time.perf_counter(), _cpu_s()
    shards.run(s)
    return _cpu_s() - start_cpu_s, time.perf_counter() - start_s


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def with_catalogs(folder: Path, n: int, size_px: int) -> Settings:
    """The settings of the first ``n`` galaxies, and their catalogs."""
    s = settings_of(
        "survey=custom", "survey.name=bench", f"survey.folder={folder}", f"data_dir={folder}/data",
        f"catalogs.name=first_{n}_{size_px}", f"catalogs.max_galaxies={n}", "catalogs.mock_labelled=100",
        "shards.eval_size=20", "shards.test_size=20", f"shards.image_size_px={size_px}", "model.final_size_px=32",
        f"workers={cores()}", "shards.shard_size=128",
    )  # fmt: skip
    if not (s.survey_dir / "bench_master_catalog.csv").exists():
        master_catalog.run(s)
    catalogs.run(s)
    return s


# --------------------------------------------------------------- both


def compare(file_format: str, size_px: int, folder: Path, paths: Sequence[str]) -> None:
    """Print the rates of the stage and of each bare loop, and the ratio to the fastest one."""
    n, few = len(paths), len(paths) // 4
    large, small = with_catalogs(folder, n, size_px), with_catalogs(folder, few, size_px)
    rates: dict[str, list[Seconds]] = {}
    with ProcessPoolExecutor(cores()) as pool:
        for _ in range(REPEATS):
            (a_cpu, a_s), (b_cpu, b_s) = (stage(s, time.monotonic_ns()) for s in (large, small))
            rates.setdefault("stage=shards", []).append(_rate(n - few, (a_cpu - b_cpu, a_s - b_s)))
            for name, one in loops(file_format).items():
                rates.setdefault(name, []).append(_rate(few, bare(pool, one, size_px, paths[:few])))
    medians = {name: median(cpu for cpu, _ in found) for name, found in rates.items()}
    for name, found in rates.items():
        cpu = sorted(cpu for cpu, _ in found)
        ratios_of = sorted(o / b for (o, _), (b, _) in zip(rates["stage=shards"], found, strict=True))
        print(
            f"{file_format} {size_px:>3} px  {name:<22} {medians[name]:6,.0f} ({median(w for _, w in found):,.0f}) a"
            f" second, {cpu[0]:,.0f} to {cpu[-1]:,.0f}; stage / this {median(ratios_of):.2f},"
            f" {ratios_of[0]:.2f} to {ratios_of[-1]:.2f}",
            flush=True,
        )
        if name != "stage=shards":
            ratios.record(f"stage=shards, {file_format} to {size_px} px", name, median(ratios_of))


def _rate(n: int, seconds: Seconds) -> Seconds:
    return cores() * n / seconds[0], n / seconds[1]


def main() -> None:
    """Compare for each format and size."""
    for file_format in sys.argv[1:] or N:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = write_survey(folder, file_format)
            for size_px in SIZES_PX:
                compare(file_format, size_px, folder, paths)
    show_load()


if __name__ == "__main__":
    main()
