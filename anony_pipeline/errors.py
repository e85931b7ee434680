"""The errors that a user can cause, and that say what to do about it.

Anything else that is raised is a defect of the program.
"""

import errno
from collections.abc import Sequence


class AnonyPipelineError(Exception):
    """An error whose message says what, where, what was given, what is allowed and what to do.

    Args:
        what: What is wrong, as a sentence without its full stop.
        where: The file (with its line, ``labels.txt:12``), key or object that it was found in.
        got: What was given.
        allowed: What would have been accepted.
        do: What the reader can do now.

    Example:
        >>> print(DatasetError("row has too few numbers", where="a.txt:3", got="3", allowed="10 numbers", do="mend it"))
        row has too few numbers
          where:   a.txt:3
          got:     3
          allowed: 10 numbers
          do:      mend it
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        allowed: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.allowed, self.do = what, where, got, allowed, do
        details = {"where": where, "got": got, "allowed": allowed, "do": do}
        lines = [f"  {f'{label}:':<8} {value}" for label, value in details.items() if value is not None]
        super().__init__("\n".join([what, *lines]))


class ConfigError(AnonyPipelineError):
    """A configuration that can't be used."""

    @classmethod
    def of_problems(cls, source: object, problems: Sequence[str]) -> "ConfigError":
        """Collect all mistakes of one configuration, so that they can be mended in one go.

        Args:
            source: The file or files that were read.
            problems: One line for each mistake: key path, rule and value.
        """
        error = cls(f"{source} has {len(problems)} problem{'s' if len(problems) != 1 else ''}:")
        error.args = ("\n".join([str(error.what), *(f"  {problem}" for problem in problems)]),)
        return error


class DatasetError(AnonyPipelineError):
    """A data set, or an annotation in it, that can't be read as what it claims to be."""


class WeightsError(AnonyPipelineError):
    """Weights that are missing, damaged, of another architecture or not allowed."""


class MediaError(AnonyPipelineError):
    """An image or video that can't be read or written."""


class CheckpointError(AnonyPipelineError):
    """A checkpoint that is missing, incomplete or of another run."""


class PrivacyError(AnonyPipelineError):
    """Something that would have let private pixels out."""


FULL, FORBIDDEN = frozenset({errno.ENOSPC, errno.EDQUOT}), frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""What a disk says that can be mended by its owner."""


def of_disk(error: OSError) -> AnonyPipelineError | None:
    """What a full disk or missing rights mean to the user; None for another error.

    >>> print(of_disk(OSError(errno.ENOSPC, "No space left on device")))
    the disk refuses to read or write
      got:     No space left on device
      do:      free some space: what is finished stays
    """
    if error.errno not in FULL | FORBIDDEN:
        return None
    do = "free some space: what is finished stays" if error.errno in FULL else "check the permissions"
    what = "the disk refuses to read or write"
    return AnonyPipelineError(what, where=error.filename2 or error.filename, got=error.strerror, do=do)


PASSING = frozenset(
    {
        errno.EIO,
        errno.EBUSY,
        errno.ESTALE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENOTCONN,
    }
)
"""What a store says that is away for a moment: a mount that hangs, a network that is down. A full disk stays full."""


AWAY = frozenset({"ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError"})
"""Classes, by name: Python's own, and what botocore, requests and aiohttp call a store that does not answer."""


def may_pass_again(error: BaseException | None) -> bool:
    """Whether doing the same once more can succeed: the error, or what caused it, is a store or network that was away.

    >>> may_pass_again(ConnectionResetError()), may_pass_again(ValueError("step 3")), may_pass_again(None)
    (True, False, False)
    """
    while error is not None:
        if any(kind.__name__ in AWAY for kind in type(error).__mro__):
            return True
        if isinstance(error, OSError) and error.errno in PASSING:
            return True
        error = error.__cause__
    return False
