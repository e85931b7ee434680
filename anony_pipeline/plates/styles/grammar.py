"""The form of a plate's text: weighted patterns of tokens, read from a style's YAML.

A pattern is a line of tokens between spaces:

| token | meaning |
|---|---|
| ``L2`` | two characters of the set ``L`` (``L`` alone is one) |
| ``county`` | one entry of the list ``county`` |
| ``-`` | a hyphen |
| ``_`` | a gap |
| ``.`` | a dot at half height |
| ``*`` | the place of a seal or sticker |
| ``/`` | the next row |

Hyphens, gaps, dots, seals and rows are drawn, but are no part of the normalized text.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

SATISFIABLE_TRIES = 2000


class Mark(StrEnum):
    """What is drawn between characters."""

    HYPHEN = "-"
    GAP = "_"
    DOT = "."
    SEAL = "*"
    ROW = "/"

    @property
    def text(self) -> str:
        """How the mark stands in a serial."""
        return "-" if self is Mark.HYPHEN else " "


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a pattern that takes one of its ``choices`` values.

    Attributes:
        name: The set or list.
        values: The set's characters, or the list's entries.
        repeat: How many characters are taken from the set; 1 for a list.
    """

    name: str
    values: tuple[str, ...]
    repeat: int

    @property
    def choices(self) -> int:
        """How many different texts the slot can take."""
        return len(self.values) ** self.repeat

    @property
    def expression(self) -> str:
        """A regular expression of the slot's texts; longer entries first, so that `B` doesn't hide `BA`."""
        ordered = sorted(self.values, key=lambda value: (-len(value), value))
        return f"(?:{'|'.join(map(re.escape, ordered))}){{{self.repeat}}}"

    def text(self, rank: int) -> str:
        """The slot's text number ``rank``, in ``[0, choices)``."""
        characters = []
        for _ in range(self.repeat):
            rank, index = divmod(rank, len(self.values))
            characters.append(self.values[index])
        return "".join(characters)


Token = Slot | Mark


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a serial: characters of one slot, or one mark (with no text of its own)."""

    text: str
    mark: Mark | None = None


class Pattern(BaseModel):
    """One form of the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: str = Field(description="tokens between spaces")
    weight: PositiveInt | None = Field(None, description="share among the patterns; its number of serials if None")


class Grammar(BaseModel):
    """All texts that a plate of one style can bear."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: dict[str, Annotated[str, Field(pattern=r"^[0-9A-Z]+$")]] = Field(description="name -> characters")
    lists: dict[str, tuple[Annotated[str, Field(pattern=r"^[0-9A-Z]+$")], ...]] = Field(
        default_factory=dict, description="name -> texts, such as the codes of regions"
    )
    patterns: tuple[Pattern, ...] = Field(min_length=1, description="the forms that a serial can have")
    forbidden: tuple[str, ...] = Field(
        (), description="regular expressions; a serial in which one is found is never drawn and not accepted"
    )

    @model_validator(mode="after")
    def _can_be_satisfied(self) -> Self:
        self._check_names()
        self._check_expressions()
        for pattern in self.patterns:
            self._tokens_of(pattern)
        weighted = [pattern.weight is not None for pattern in self.patterns]
        if any(weighted) and not all(weighted):
            raise ValueError("either every pattern has a weight, or none has")
        # A small generator of our own: `random` is not needed for a check that only has to be repeatable.
        state = [12345]

        def choose(count: int) -> int:
            state[0] = (state[0] * 6364136223846793005 + 1442695040888963407) % 2**64
            return (state[0] >> 20) % count

        if not any(self.propose(choose) for _ in range(SATISFIABLE_TRIES)):
            raise ValueError(
                f"the grammar can't be satisfied: `forbidden` refused {SATISFIABLE_TRIES} serials in a row"
            )
        return self

    def _check_names(self) -> None:
        for name, values in [*self.sets.items(), *self.lists.items()]:
            if not re.fullmatch(r"[A-Za-z]+", name):
                raise ValueError(f"a set or list is named by letters alone: got {name!r}")
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must have entries, none of them twice: got {values!r}")
        if both := sorted(set(self.sets) & set(self.lists)):
            raise ValueError(f"these names stand in `sets` and in `lists`: {', '.join(both)}")

    def _check_expressions(self) -> None:
        for expression in self.forbidden:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"`forbidden` has no valid regular expression {expression!r}: {error}") from error

    def _tokens_of(self, pattern: Pattern) -> tuple[Token, ...]:
        tokens = tuple(self._token(text, pattern.tokens) for text in pattern.tokens.split())
        if not any(isinstance(token, Slot) for token in tokens):
            raise ValueError(f"the pattern {pattern.tokens!r} has no characters")
        return tokens

    def _token(self, text: str, pattern: str) -> Token:
        if text in list(Mark):
            return Mark(text)
        match = re.fullmatch(r"([A-Za-z]+)([1-9])?", text)
        if match and match[1] in self.sets:
            return Slot(match[1], tuple(self.sets[match[1]]), int(match[2] or 1))
        if match and match[1] in self.lists and not match[2]:
            return Slot(match[1], self.lists[match[1]], 1)
        known = [*self.sets, *self.lists, *(mark.value for mark in Mark)]
        raise ValueError(f"the pattern {pattern!r} has an unknown token {text!r}; known here: {' '.join(known)}")

    @functools.cached_property
    def forms(self) -> tuple[tuple[Token, ...], ...]:
        """The tokens of each pattern."""
        return tuple(self._tokens_of(pattern) for pattern in self.patterns)

    @property
    def alphabet(self) -> str:
        """Every character that a serial can have, sorted."""
        slots = [token for form in self.forms for token in form if isinstance(token, Slot)]
        return "".join(sorted({character for slot in slots for value in slot.values for character in value}))

    @property
    def rows(self) -> int:
        """How many rows the plate has at most."""
        return max(form.count(Mark.ROW) for form in self.forms) + 1

    @functools.cached_property
    def _shares(self) -> tuple[int, ...]:
        return tuple(
            pattern.weight or _serials_of(form) for pattern, form in zip(self.patterns, self.forms, strict=True)
        )

    def propose(self, choose: Callable[[int], int]) -> str | None:
        """Draw one serial; None if it is a forbidden one, so that repeated proposals are uniform over what is left.

        Args:
            choose: ``choose(n)`` gives a random whole number in ``[0, n)``.
        """
        position = choose(sum(self._shares))
        number = 0
        while position >= self._shares[number]:
            position -= self._shares[number]
            number += 1
        text = "".join(
            token.text if isinstance(token, Mark) else token.text(choose(token.choices)) for token in self.forms[number]
        )
        return None if self._is_forbidden(text) else text

    def split(self, serial: str) -> tuple[Piece, ...] | None:
        """Cut a serial into the pieces of the pattern that it follows.

        Args:
            serial: With its hyphens and gaps, or normalized. With them, a pattern that agrees with them is preferred.

        Returns:
            The pieces; None if the grammar doesn't accept the serial.
        """
        for expressions, wanted in ((self._written, serial), (self._bare, _bare(serial))):
            for form, expression in zip(self.forms, expressions, strict=True):
                match = expression.fullmatch(wanted)
                if match:
                    pieces = _pieces(form, match)
                    if not self._is_forbidden(_written(pieces)):
                        return pieces
        return None

    def _is_forbidden(self, text: str) -> bool:
        return any(re.search(expression, text) for expression in self.forbidden)

    @functools.cached_property
    def _written(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_expression(form, with_marks=True) for form in self.forms)

    @functools.cached_property
    def _bare(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_expression(form, with_marks=False) for form in self.forms)


def _bare(text: str) -> str:
    return "".join(character for character in text.upper() if character.isalnum())


def _written(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.mark.text if piece.mark else piece.text for piece in pieces)


def _expression(form: tuple[Token, ...], *, with_marks: bool) -> re.Pattern[str]:
    parts = [
        f"({token.expression})" if isinstance(token, Slot) else re.escape(token.text) if with_marks else ""
        for token in form
    ]
    return re.compile("".join(parts))


def _pieces(form: tuple[Token, ...], match: re.Match[str]) -> tuple[Piece, ...]:
    texts = iter(match.groups())
    return tuple(Piece("", token) if isinstance(token, Mark) else Piece(next(texts)) for token in form)


def _serials_of(form: tuple[Token, ...]) -> int:
    count = 1
    for token in form:
        count *= token.choices if isinstance(token, Slot) else 1
    return count
