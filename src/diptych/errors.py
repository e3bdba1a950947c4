"""What can go wrong for a person, as types. Each is a sentence, and a hint where there is one to give."""

from collections.abc import Sequence


class DiptychError(Exception):
    """A sentence that says what is wrong, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class WrongUse(DiptychError, ValueError):
    """An argument that cannot be meant: an unknown name, a value out of range, two that contradict."""

    exit_code = 2


class DataError(DiptychError):
    """Images that cannot be read, or not enough of them."""


class RunError(DiptychError):
    """A run directory that is missing, incomplete, or belongs to another command."""


class Diverged(RunError):
    """Training met a number that is not finite; the last good checkpoint stands."""


class Alarmed(RunError):
    """An alarm ended training, because it was asked to; the last checkpoint and the best one stand."""


class NotMeasurable(DiptychError):
    """The model or the sample has no such quantity (a GAN has no density); the message gives the reason."""


class NotComparable(DiptychError):
    """Two scores were made with different rulers; the message names what differs."""


def dimensions(shape: Sequence[int]) -> str:
    """The shape (C, H, W) of an image as a person says it; any other as it is.

    >>> dimensions((3, 32, 48)), dimensions((1, 8, 8)), dimensions((2, 3))
    ('48x32 with 3 channels', '8x8 with 1 channel', '(2, 3)')
    """
    if len(shape) != 3:
        return f"({', '.join(map(str, shape))})"
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' * (channels > 1)}"


def did_you_mean(name: str, known: "list[str]") -> str:
    """A hint that offers the nearest known name, or all of them.

    >>> did_you_mean("r3gna", ["edm", "r3gan"])
    'did you mean r3gan?'
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    near = near or [one for one in known if one.lower() == name.lower()]
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
