"""What can go wrong, as one tree.

    ZoobotError            one message, no traceback; the user can fix it: exit status 2
    ├── SettingsError      a setting is missing, unknown or out of range, or two do not fit together
    ├── InputError         a table, image, classification or question file is not as expected
    ├── FolderError        a folder exists with other settings, is unfinished, changed or missing
    ├── ServiceError       Zooniverse refused a request, or (exit status 1: try again later) cannot be reached
    ├── ChangedError       stage=verify found a difference from a manifest (exit status 1)
    └── ProcessError       one of our processes was killed (exit status 1: the same command continues)

Every message says what, where, why and what to do. Any other exception is a bug in this program: it shows a traceback
and has exit status 1.
"""


class ZoobotError(Exception):
    """The user's settings or inputs are wrong."""

    exit_status = 2


class SettingsError(ZoobotError):
    """A setting is missing, unknown, out of range or does not fit another."""


class InputError(ZoobotError):
    """A file that was read is not as expected."""


class FolderError(ZoobotError):
    """A folder exists with other settings, is unfinished, was changed, or is missing."""


class ServiceError(ZoobotError):
    """Zooniverse refused a request (``http_status``), or cannot be reached now (``http_status`` 0, 429 or 5xx)."""

    def __init__(self, message: str, http_status: int = 0) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.exit_status = 2 if 400 <= http_status < 500 and http_status != 429 else 1


class ChangedError(ZoobotError):
    """Files differ from what was written; the message lists all of them."""

    exit_status = 1


class ProcessError(ZoobotError):
    """One of our processes was killed from outside, by hand or because memory ran out."""

    exit_status = 1
