"""What can go wrong, as one tree.

    ZoobotError            the user can mend it: one message, exit status 2, no traceback
    ├── SettingsError      a setting is missing, unknown or out of range, or two do not fit together
    ├── InputError         a table, image, classification or question file is not what it should be
    └── FolderError        a folder exists with other settings, is unfinished, changed or missing

Every message says what, where, why and what to do. Anything else that is raised is a bug of ours: a traceback, exit
status 1.
"""


class ZoobotError(Exception):
    """The user's settings or inputs are wrong."""


class SettingsError(ZoobotError):
    """A setting is missing, unknown, out of range or does not fit another."""


class InputError(ZoobotError):
    """A file that was read is not what it should be."""


class FolderError(ZoobotError):
    """A folder exists with other settings, is unfinished, was changed, or is missing."""
