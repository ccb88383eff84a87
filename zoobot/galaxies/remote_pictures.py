"""Pictures in an object store (``survey.pictures``): s3://bucket/prefix, or any URL that pyarrow or fsspec opens.

pyarrow reads S3 itself, and fsspec's file systems by fsspec+PROTOCOL://. These libraries find the credentials, as the
AWS command line does; none is a setting.
"""

from __future__ import annotations

import functools
import posixpath
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pa_fs

from zoobot.errors import InputError, ServiceError, SettingsError
from zoobot.galaxies import pictures
from zoobot.galaxies.pictures import BYTES_PER_PIXEL
from zoobot.galaxies.repeats import Ints

_AT_ONCE = 16  # pictures that are fetched while others are decoded
_ABSENT = (pa_fs.FileType.NotFound, pa_fs.FileType.Directory)


class RemotePictures:
    """The pictures below one URL. SettingsError: no library opens it."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = pa_fs.FileSystem.from_uri(url)
        except (pa.ArrowException, ValueError, ImportError, TypeError) as error:
            raise SettingsError(
                f"survey.pictures={url}: {_first_line(error)}. Give s3://bucket/prefix, or fsspec+PROTOCOL://… with"
                " fsspec and the package for that protocol installed."
            ) from error
        except OSError as error:
            raise self._stopped("it", error) from error

    def sizes(self, locations: pd.Series, may_lead_out: bool = False) -> Ints:
        """The bytes of each picture, N; -1 for one that is not there. Each folder is listed once, no picture is asked
        for alone. InputError: one leads out of the URL, unless that counts as not there.
        """
        paths = pd.Series([self._path(str(each), may_lead_out) for each in locations], dtype="string")
        folders, names = paths.str.rpartition("/")[0], paths.str.rpartition("/")[2]
        codes, known = pd.factorize(folders)
        found = np.full(len(paths), -1, np.int64)
        for rows in np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=1))[:-1]):
            if len(rows) and known[codes[rows[0]]]:
                listed = self._listed(str(known[codes[rows[0]]]))
                found[rows] = [listed.get(name, -1) for name in names.iloc[rows]]
        return found

    def read(self, locations: Sequence[str], max_pixels: int) -> Iterator[bytes | str]:
        """The file of each picture, in order, or why it cannot be used. Several are fetched at once.

        ServiceError: the store refused a request or cannot be reached, which is no missing picture.
        """
        pool = ThreadPoolExecutor(_AT_ONCE)
        waiting: deque[Future[bytes | str]] = deque()
        try:
            for location in locations:
                waiting.append(pool.submit(self._read, location, max_pixels))
                if len(waiting) == _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, location: str, max_pixels: int) -> bytes | str:
        try:
            with self._files.open_input_file(self._path(location)) as file:
                if file.size() > BYTES_PER_PIXEL * max_pixels:
                    raise pictures.too_many_bytes(max_pixels)
                content: bytes = file.read()
                return content
        except InputError as error:
            return str(error)
        except FileNotFoundError:
            return "no such file"
        except OSError as error:
            raise self._stopped(location, error) from error

    def _path(self, location: str, may_lead_out: bool = False) -> str:
        path = posixpath.normpath(location.lstrip("/"))
        if path == "." or path.startswith("../") or path == "..":
            if may_lead_out:
                return ""
            raise InputError(f"{location} leads out of {self.url}: only what lies below survey.pictures is read")
        return f"{self._root.rstrip('/')}/{path}"

    @functools.lru_cache(maxsize=8)  # noqa: B019  # there is one object a process
    def _listed(self, folder: str) -> dict[str, int]:
        try:
            found = self._files.get_file_info(pa_fs.FileSelector(folder))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._stopped("it", error) from error
        return {each.base_name: each.size for each in found if each.type not in _ABSENT}

    def _stopped(self, what: str, error: OSError) -> ServiceError:
        return ServiceError(
            f"survey.pictures={self.url}: {what} cannot be read: {_first_line(error)}. That is no missing picture, so"
            " the stage stops; what is finished is kept. Check the address, the network, the region (AWS_REGION) and"
            " the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID: may they list and read, have they expired?). Then run"
            " the same command again. A bucket whose requester pays needs fsspec+s3:// (docs/own_survey.md)."
        )


@functools.cache
def opened(url: str) -> RemotePictures:
    """The pictures at a URL, with one connection for all of this process."""
    return RemotePictures(url)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
