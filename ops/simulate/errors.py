"""Why a sync fails on the device.

DeviceError
├── NotReachable       the server does not answer
├── NotAdmitted        401 or 403: the token, or the key, is not accepted
├── BadAnswer          any other answer than the one the app expects
├── BrokenStream       the connection broke before the stream ended
├── UnreadableLine     a line at which the app's parser throws
├── RefusedRow         a row that the app's database refuses (foreign key, uniqueness)
└── UnusableCopy       the device's own database file cannot be used
"""


class DeviceError(Exception):
    """A sync that failed; `str(error)` is one line for a person and never holds the token."""


class NotReachable(DeviceError):
    """The server does not answer."""


class NotAdmitted(DeviceError):
    """The server does not accept what was presented (401 or 403)."""


class BadAnswer(DeviceError):
    """A status or a body that the app does not expect."""


class TryLater(BadAnswer):
    """503: the service, its store or its source is not there for now. All that was acked stands."""


class BrokenStream(DeviceError):
    """The connection broke in the middle of the stream: all that was acked stands, the rest comes next time."""


class UnreadableLine(DeviceError):
    """A line at which the app's parser throws; nothing of the lines held with it is stored or acked."""


class RefusedRow(DeviceError):
    """A row that breaks a foreign key or a uniqueness rule of the app's database."""


class UnusableCopy(DeviceError):
    """The database file is no device's copy, or cannot be read or written."""
