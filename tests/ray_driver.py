"""What test_ray.py has a driver do: main(), with FOLDER CASE … as arguments. Few imports: workers import it too."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from zoobot.engine import map as engine
from zoobot.errors import ServiceError, ZoobotError

ADDRESS = "127.0.0.1:6379"


def each(function: Callable[[Any], Any], items: Iterable[Any], cluster: str = ADDRESS) -> list[Any]:
    return list(engine.in_order(function, items, 2, lambda item: f"item {item}", cluster))


# --------------------------------------------------------------- what workers do


def square(n: int) -> int:
    time.sleep(0.02 * (n % 3))  # so that later items are done before earlier ones
    return n * n


def seen(n: int) -> tuple[str, ...]:
    logging.getLogger("zoobot").info("log of %d", n)
    return str(Path.cwd()), os.environ["OPENBLAS_NUM_THREADS"], os.environ["RAY_AUTH_MODE"]


def refuse(n: int) -> None:
    raise ServiceError("it is full.", http_status=503) if n else ValueError("odd")


def die_once(path: Path) -> str:
    """Killed the first time that it is called for a file."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def die(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path: Path) -> None:
    if path.name != "0":
        path.write_text(str(os.getpid()))
        time.sleep(60)


def slow(path: Path) -> str:
    with path.open("a") as file:
        file.write("begun ")
    time.sleep(0.4)
    return path.name


# --------------------------------------------------------------- cases


def squares(_: Path) -> list[int]:
    return each(square, range(12))


def where(_: Path) -> list[tuple[str, ...]]:
    return each(seen, range(3))


def refused(_: Path) -> list[None]:
    return each(refuse, [3])


def odd(_: Path) -> list[None]:
    return each(refuse, [0])


def killed_once(folder: Path) -> list[str]:
    return each(die_once, [folder / "a", folder / "b"])


def killed_always(_: Path) -> list[object]:
    return each(die, ["big"])


def sleeping(folder: Path) -> list[None]:
    return each(sleep, [folder / "a", folder / "b"])


def slowly(folder: Path) -> list[str]:
    return each(slow, [folder / f"{n:02}" for n in range(16)])


def closed(folder: Path) -> int:
    """How many items were taken until the second was given, and not awaited."""
    taken = list[int]()

    def items() -> Iterator[Path]:
        for n in range(100):
            taken.append(n)
            yield folder / str(n)

    with closing(engine.in_order(sleep, items(), 2, cluster=ADDRESS)) as found:
        next(found)
    return len(taken)


def own(folder: Path) -> list[int]:
    found = each(square, range(4), cluster="")
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    (folder / "own").write_text(f"{token.stat().st_mode:o} {token.parent.stat().st_mode:o} {token.parent}")
    return found


def of_another_version(folder: Path) -> list[int]:
    import ray

    ray.__version__ = "2.0.0"
    return squares(folder)


def without_ray(folder: Path) -> list[int]:
    sys.modules["ray"] = None  # type: ignore[assignment]
    return squares(folder)


def at_another_port(_: Path) -> list[int]:
    return each(square, [1], cluster="127.0.0.1:9")


def main() -> None:
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    for name in sys.argv[2:]:
        try:
            print(name, "gave", globals()[name](Path(sys.argv[1])), flush=True)
        except (ZoobotError, RuntimeError) as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
