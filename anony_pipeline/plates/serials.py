"""Serials: drawn uniformly over a style's grammar, kept away from the original's, repeatable by a key."""

import hashlib
import hmac
from collections.abc import Collection, Mapping

import numpy as np

from anony_pipeline.errors import ConfigError, PrivacyError
from anony_pipeline.plates.styles import PlateStyle

MIN_DISTANCE = 3
"""A drawn serial differs from each one that it has to avoid by at least so many edits."""
TRIES = 10_000


def draw(
    style: PlateStyle,
    rng: np.random.Generator,
    *,
    avoid: Collection[str] = (),
    blocked: Collection[str] = (),
    unissued: bool = False,
) -> str:
    """Draw a serial uniformly over the style's grammar (by the patterns' weights, where they have some).

    Args:
        style: The plate's style.
        rng: Where the randomness comes from.
        avoid: Serials, with or without separators, that the result stays away from: never equal, never within edit
            distance 2.
        blocked: Texts that no serial contains, whatever its separators.
        unissued: From ranges that no authority issues, where the style knows some: such a serial is nobody's.

    Returns:
        The serial with its separators, such as ``AB-123-CD``.

    Raises:
        ConfigError: If the grammar is too small to stay away from ``avoid`` and ``blocked``.
    """
    refused = [normalize(text) for text in avoid]
    words = [word for word in map(normalize, blocked) if word]
    for _ in range(TRIES):
        serial = style.serial.propose(lambda count: int(rng.integers(count)), unissued=unissued)
        if serial is None:
            continue
        bare = normalize(serial)
        if any(word in bare for word in words):
            continue
        if all(edit_distance(bare, other) >= MIN_DISTANCE for other in refused):
            return serial
    raise ConfigError(
        "the style's grammar has too few serials to stay away from those to avoid",
        where=f"plate style {style.key}",
        got=f"{len(refused)} to avoid, {len(words)} blocked, {TRIES} serials drawn in vain",
        do="widen the grammar, or avoid and block fewer texts",
    )


def keyed_serial(
    style: PlateStyle, secret: bytes, track: str, *, avoid: Collection[str] = (), blocked: Collection[str] = ()
) -> str:
    """Draw the serial of one physical plate: the same for the same secret, style and track, unpredictable without it.

    HMAC-SHA256 (RFC 2104) of style and track seeds the generator; without the secret, nobody can link them. The
    serial is one that no authority issues, where the style knows such ranges.

    Args:
        style: The plate's style.
        secret: At least 16 bytes; whoever deletes it makes the assignment irreversible.
        track: Names the physical plate.
        avoid: See `draw`; must be the same in each call for the result to be.
        blocked: See `draw`.

    Raises:
        PrivacyError: If the secret is too short to be one.
        ConfigError: See `draw`.
    """
    if len(secret) < 16:
        raise PrivacyError(
            "the secret is too short to be one",
            where="keyed_serial",
            got=f"{len(secret)} bytes",
            allowed="16 bytes or more",
            do="make one with secrets.token_bytes(32)",
        )
    digest = hmac.new(secret, f"{style.key}/{track}".encode(), hashlib.sha256).digest()
    return draw(
        style, np.random.default_rng(int.from_bytes(digest, "big")), avoid=avoid, blocked=blocked, unissued=True
    )


def parse(text: str, styles: Mapping[str, PlateStyle]) -> list[str]:
    """The keys of the styles whose grammar accepts a text, sorted; separators and case don't count.

    >>> from anony_pipeline.plates.styles import load_styles
    >>> parse("ab 123 cd", load_styles())
    ['AR', 'FR', 'IT']
    """
    return sorted(key for key, style in styles.items() if style.serial.split(normalize(text)) is not None)


def normalize(text: str) -> str:
    """Keep letters and digits alone, as capitals.

    >>> normalize("ab-123 cd")
    'AB123CD'
    """
    return "".join(character for character in text.upper() if character.isalnum())


def edit_distance(first: str, second: str) -> int:
    """The fewest insertions, deletions and substitutions of characters that make one text the other (Levenshtein).

    >>> edit_distance("AB123", "A8123C")
    2
    """
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def edit_distance_within(part: str, text: str) -> int:
    """The fewest edits that make one text some stretch of another (Sellers, 1980): 0 if it is in it.

    >>> edit_distance_within("AB123", "DA8123CX")
    1
    """
    row = [0] * (len(text) + 1)
    for i, left in enumerate(part, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(text, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return min(row)
