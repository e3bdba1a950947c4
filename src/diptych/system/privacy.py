"""What is nobody's business stays out of reports, recipe.json and logs: secrets, home paths, user and host.

Tokens are known by their shape (those that code hosts scan for) or by the name before them. Relative paths,
and absolute ones outside of home directories, stay: they say where data lies, and lead there.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
HIDDEN = "***"
# Hugging Face, GitHub, GitLab, OpenAI and others, Stripe, AWS, Google, Slack, PyPI, npm, Docker, JSON web
# tokens
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-[A-Za-z0-9][\w-]{16,}|sk_(?:live|test)_\w{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}"
    r"|xox[abposr]-[\w-]{10,}|pypi-[\w-]{30,}|npm_[A-Za-z0-9]{30,}|dckr_[a-z]{2,4}_[\w-]{16,}|ya29\.[\w.-]{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
)
_NAMES = (
    r"(?:token|secret|password|passwd|pwd|passphrase|credentials?|api[_-]?key"
    r"|(?:access|account|auth|aws|azure|comet|encryption|gcp|google|hf|hub|neptune|openai|private|signing|ssh"
    r"|storage|wandb)[_-]?key)"
)
_AUTH = r"--?(?!-?no-)(?:[\w-]*[-_])?auth(?:orization)?"  # of a flag: elsewhere it is a word as any
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s'"&,;}]+)"""
# --token X, --hf-token=X, WANDB_API_KEY=X, DB_PASSWORD: X, and KEY names in capitals, as in the environment
_FLAG = re.compile(rf"((?:--?(?:[\w-]*[-_])?{_NAMES}|(?<![\w-]){_AUTH})(?:\s+|=))({_VALUE})", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""(\b(?:\w*[_-])?{_NAMES}(?:_\w+)?["']?\s*[=:]\s*|\b[A-Z][A-Z0-9_]*_KEY["']?\s*[=:]\s*)({_VALUE})""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\b(?:Bearer|Basic)\s+)([\w.~+/=-]{8,})")
# of a signed address: X-Amz-Signature and the like
_QUERY = re.compile(r"""([?&;](?:[\w.-]*[-_.])?(?:sig|signature|auth)=)[^&#\s'"<>]+""", re.IGNORECASE)
_SECRET_FLAG = re.compile(rf"(?:--?)?(?:[\w-]*[-_])?{_NAMES}|{_AUTH}", re.IGNORECASE)
# up to the last @ of the host's part; a password with a slash in it is known by what no port looks like
_URL = re.compile(
    r"""(\b[a-z][a-z0-9+.-]*://)(?:[^\s/]+@|(?<!file://)(?!\[)[^\s/@:"'<>,]*:(?!\d+(?:[/?#\s]|$))[^\s"'<>]+@)""",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(rf"(?:.*[_-])?(?:{_NAMES}(?:_.*)?|auth(?:orization)?)|.*_key", re.IGNORECASE)
_DOWN, _PART = r"[\\/]+", r"[^\\/\s'\"<>:,;=()]+"
# An absolute path into a home directory, from the root of a disk or a server on. What is called home or users
# further down is a folder as any, and data that lie there must be found again. https:// begins no path.
_HOMES = re.compile(
    rf"((?:(?<=file:){_DOWN}|(?<=:)[\\/](?![\\/])|(?<![\w.~/\\:*$%}}\])-]){_DOWN})"
    rf"(?:(?:export{_DOWN})?home[s\d]?|(?:mnt{_DOWN}[a-z]{_DOWN}|Volumes{_DOWN}[^\\/\n]+{_DOWN})?Users){_DOWN}"
    rf"|(?:(?<![\w.~/\\:*$%}}\])-])\\{{2,}}|(?<=file:)//){_PART}(?:\\+{_PART})?{_DOWN}(?:home[s\d]?|Users){_DOWN}"
    rf"|(?<!\w)(?i:[a-z]:{_DOWN}(?:users|Documents and Settings)){_DOWN}){_PART}"
    r"(?P<more>(?: [^\W\d_][\w.-]*){1,3}(?=[\\/'\"]|\Z))?"
)
_OTHERS = re.compile(r"(?<![\w.~/\\-])~[a-z_][\w.-]+(?=[\\/])", re.IGNORECASE)  # ~joe/


def clean(text: str) -> str:
    """Text without secrets; one's own home directory is ~, and user and host of this machine are not named.

    >>> clean("train https://me:hunter2@host/x --token abc HF_TOKEN=hf_1 /home/someone/set sets/mine")
    'train https://***@host/x --token *** HF_TOKEN=*** /home/***/set sets/mine'
    """
    text = _URL.sub(rf"\1{HIDDEN}@", text)
    text = _SHAPES.sub(HIDDEN, text)
    for pattern in (_FLAG, _ASSIGNED, _QUERY, _BEARER):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    for home in _own_homes():
        text = re.sub(rf"{re.escape(home)}(?=[/\\]|\W|$)", "~", text)
    text = _HOMES.sub(_nobody, text)
    text = _OTHERS.sub(f"~{HIDDEN}", text)
    for word, instead in _own_names():
        # not where it is a part of a path, which would then lead nowhere
        text = re.sub(rf"(?<![\w./\\-]){re.escape(word)}(?![\w/\\-])", instead, text)
    return text


def _nobody(found: re.Match[str]) -> str:
    """A home directory without its name, of which words after a space may be a part: /Users/Joe Smith/x."""
    more, text = found["more"] or "", found.string
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    named = all(word[0].isupper() for word in more.split())
    if after in ("/", "\\"):
        theirs = named or before in ("", "'", '"') or "\\" in found[1]
    else:
        theirs = before == after and (named or before != "")
    return found[1] + HIDDEN + ("" if theirs else more)


def command_line(arguments: Iterable[str]) -> str:
    """Arguments as one line to be typed again, `clean`; ~ stays what a shell expands.

    >>> command_line(["diptych", "train", "edm", "my set", "--hf-token", "a b"])
    "diptych train edm 'my set' --hf-token ***"
    """
    words, secret = list[str](), False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        told = HIDDEN if secret else clean(argument)
        named = bool(_SECRET_FLAG.fullmatch(name))
        if named and equals and not secret:
            told = f"{name}={HIDDEN}"
        secret = named and not equals and argument.startswith("-")
        words.append(_quoted(told))
    return " ".join(words)


def _quoted(word: str) -> str:
    """For a shell, but for the ~ of a home directory and what stands for a secret."""
    if word == HIDDEN or word == "~":
        return word
    return "~/" + _quoted(word[2:]) if word.startswith("~/") and word[2:] else shlex.quote(word)


def at_home(path: str) -> str:
    """A path with ~ for this user's home directory; it still leads there."""
    return next((f"~{path[len(h) :]}" for h in _own_homes() if path == h or path.startswith(f"{h}/")), path)


def cleaned(tree: T) -> T:
    """Plain data with every text in it, and every key of a mapping, made `clean`.

    The text of an entry whose name says that it is a secret ({"api_key": ...}) is left out whole.
    """
    return _cleaned(tree)  # type: ignore[no-any-return]


def _cleaned(tree: Any) -> Any:
    if isinstance(tree, str):
        return clean(tree)
    if isinstance(tree, Mapping):
        return {clean(k) if isinstance(k, str) else k: _entry(k, value) for k, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(_cleaned, tree)) if type(tree) in (list, tuple) else [*map(_cleaned, tree)]
    return tree


def _entry(name: Any, value: Any) -> Any:
    secret = isinstance(name, str) and isinstance(value, str) and value and _SECRET_NAME.fullmatch(name)
    return HIDDEN if secret else _cleaned(value)


@lru_cache(maxsize=1)
def _own_homes() -> tuple[str, ...]:
    """This user's home directory, as it is named and as it resolves; the longest first."""
    homes = set[str]()
    for name in (os.environ.get("HOME", ""), os.environ.get("USERPROFILE", ""), os.path.expanduser("~")):
        if Path(name).is_absolute() and len(Path(name).parts) > 1:
            homes |= {name.rstrip("/\\"), str(Path(name).resolve())}
    return tuple(sorted(homes, key=len, reverse=True))


@lru_cache(maxsize=1)
def _own_names() -> tuple[tuple[str, str], ...]:
    """User and host with what stands in their place; those that are ordinary words are let stand."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    host = socket.gethostname()
    found = [(user, "user"), (host, "host"), (host.partition(".")[0], "host")]
    return tuple(
        (word, instead) for word, instead in found if len(word) > 3 and word.lower() not in _ORDINARY
    )


_ORDINARY = {
    "root",
    "user",
    "admin",
    "test",
    "localhost",
    "ubuntu",
    "debian",
    "main",
    "data",
    "train",
    "model",
}
