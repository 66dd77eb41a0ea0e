"""Error texts that name the remedy."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for a near miss, else the list of valid names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"


class MissingExtraError(ImportError):
    """A package is missing that one of our extras would have installed."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error that names the extra."""
    return MissingExtraError(
        f"{package} is not installed; it comes with: pip install 'augmix-ray[{extra}]'", name=package
    )
