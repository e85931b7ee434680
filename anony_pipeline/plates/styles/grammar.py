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


Characters = Annotated[str, Field(pattern=r"^[^\W_a-z]+$")]
"""Capitals and digits of any script."""


class Pattern(BaseModel):
    """One form of the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: str = Field(description="tokens between spaces")
    weight: PositiveInt | None = Field(None, description="share among the patterns; its number of serials if None")


class Checksum(BaseModel):
    """A last letter that follows from the letters and digits before it: their weighted sum chooses it.

    The last ``letters`` letters before the digits count A = 1 to Z = 26 (none counts 0), digits their value; the number
    is filled with zeros on the left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    letters: PositiveInt
    weights: tuple[int, ...] = Field(min_length=2, description="of the letters, then of the digits")
    alphabet: str = Field(pattern=r"^[A-Z]+$", description="the check letter by the sum modulo its length")

    def of(self, body: str) -> str:
        """The check letter of a normalized serial without its last character."""
        prefix = body.rstrip("0123456789")
        values = [ord(letter) - ord("A") + 1 for letter in prefix[-self.letters :]]
        values = [0] * (self.letters - len(values)) + values
        number = body[len(prefix) :].zfill(len(self.weights) - self.letters)
        values += [int(digit) for digit in number]
        return self.alphabet[sum(w * v for w, v in zip(self.weights, values, strict=True)) % len(self.alphabet)]


class Grammar(BaseModel):
    """All texts that a plate of one style can bear."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: dict[str, Characters] = Field(description="name -> characters")
    lists: dict[str, tuple[Characters, ...]] = Field(
        default_factory=dict, description="name -> texts, such as the codes of regions"
    )
    patterns: tuple[Pattern, ...] = Field(min_length=1, description="the forms that a serial can have")
    forbidden: tuple[str, ...] = Field(
        (), description="regular expressions; a serial in which one is found is never drawn and not accepted"
    )
    unissued: tuple[Pattern, ...] = Field(
        (), description="forms that look like the others, of ranges that no authority issues"
    )
    checksum: Checksum | None = Field(None, description="rule of the last character; none if None")

    @model_validator(mode="after")
    def _can_be_satisfied(self) -> Self:
        self._check_names()
        self._check_expressions()
        for pattern in (*self.patterns, *self.unissued):
            self._tokens_of(pattern)
        weighted = [pattern.weight is not None for pattern in self.patterns]
        if any(weighted) and not all(weighted):
            raise ValueError("either every pattern has a weight, or none has")
        # A small generator of our own: `random` is not needed for a check that only has to be repeatable.
        state = [12345]

        def choose(count: int) -> int:
            state[0] = (state[0] * 6364136223846793005 + 1442695040888963407) % 2**64
            return (state[0] >> 20) % count

        kinds = (False, True) if self.unissued else (False,)
        if not all(any(self.propose(choose, unissued=kind) for _ in range(SATISFIABLE_TRIES)) for kind in kinds):
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

    def broken_at(self, mark: int | None) -> "Grammar":
        """The same serials on two rows: mark number ``mark`` of each pattern, from 1, begins the second; None: one row.

        A pattern with fewer marks is broken at its last one.
        """
        broken = {
            name: tuple({"tokens": _broken(pattern.tokens, mark), "weight": pattern.weight} for pattern in patterns)
            for name, patterns in (("patterns", self.patterns), ("unissued", self.unissued))
        }
        fields = {name: getattr(self, name) for name in Grammar.model_fields}
        return Grammar.model_validate(fields | broken)

    @functools.cached_property
    def forms(self) -> tuple[tuple[Token, ...], ...]:
        """The tokens of each pattern, then of each one that is not issued."""
        return tuple(self._tokens_of(pattern) for pattern in (*self.patterns, *self.unissued))

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
        patterns = (*self.patterns, *self.unissued)
        return tuple(pattern.weight or _serials_of(form) for pattern, form in zip(patterns, self.forms, strict=True))

    def propose(self, choose: Callable[[int], int], *, unissued: bool = False) -> str | None:
        """Draw one serial; None if it is a forbidden one, so that repeated proposals are uniform over what is left.

        Args:
            choose: ``choose(n)`` gives a random whole number in ``[0, n)``.
            unissued: From the ranges that no authority issues, where the grammar knows some.
        """
        count = len(self.patterns)
        number = count if unissued and self.unissued else 0
        shares = self._shares[number:] if number else self._shares[:count]
        position = choose(sum(shares))
        for share in shares:
            if position < share:
                break
            position -= share
            number += 1
        text = "".join(
            token.text if isinstance(token, Mark) else token.text(choose(token.choices)) for token in self.forms[number]
        )
        if self.checksum:
            text = text[:-1] + self.checksum.of(_bare(text)[:-1])
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
        bare = _bare(text)
        if self.checksum and self.checksum.of(bare[:-1]) != bare[-1]:
            return True
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


def _broken(tokens: str, mark: int | None) -> str:
    parts = tokens.split()
    marks = [place for place, part in enumerate(parts) if part in list(Mark)]
    # Without rows, what began one becomes a gap.
    parts = [Mark.GAP.value if part == Mark.ROW else part for part in parts]
    if mark is not None and marks:
        parts[marks[min(mark, len(marks)) - 1]] = Mark.ROW.value
    return " ".join(parts)


def _serials_of(form: tuple[Token, ...]) -> int:
    count = 1
    for token in form:
        count *= token.choices if isinstance(token, Slot) else 1
    return count
