"""What every tokenizer is to the rest of the runtime, and the one decoder all of them share.

An id stands for bytes; a text is the UTF-8 of the concatenated bytes, less a leading space where the tokenizer put one
in front before encoding. So decoding needs no look-back and streaming is exact by construction: the decoder's whole
state is at most three bytes of an unfinished character and the number of leading spaces still to drop.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from graphllm.errors import TokenizerError

# Names that end a text or a turn, for files that do not say which of their tokens do.
END_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>")


class Tokenizer(ABC):
    """Text to ids and back. Ids it does not know (a model padded past its tokenizer) decode to nothing."""

    vocab_size: int  # ids it knows are below it
    bos_id: int | None
    eos_ids: tuple[int, ...]  # what the tokenizer says; the model's own config may know more
    leading_spaces: int  # how many leading spaces of a decoded text are the encoder's own

    def __init__(self, where: str) -> None:
        self.where = where
        self._known: dict[int, tuple[bytes, bool]] = {}  # id -> its bytes, and whether it is special

    def encode(self, text: str, *, bos: bool | None = None, special: bool | None = None) -> list[int]:
        """The ids of ``text``.

        ``bos``: begin with the BOS id, or not; None does what the tokenizer itself does with a whole prompt.
        ``special``: read the names of special tokens in the text (``<|im_end|>``) as those tokens, or as plain text;
        None does what the format's reference does: tokenizer.json reads them, the other two do not.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            raise TokenizerError(f"text: not valid Unicode, a lone surrogate at character {e.start}") from None
        ids = self._encode(text, add_special=bos is None, special=special)
        if bos:
            if self.bos_id is None:
                raise TokenizerError(f"{self.where}: has no BOS token to begin with")
            ids.insert(0, self.bos_id)
        return self._checked(ids)

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.vocab_size:
            raise TokenizerError(
                f"{self.where}: its ids have holes; expected all below {self.vocab_size}, their number, got {max(ids)}"
            )
        return ids

    @cached_property
    def special_names(self) -> Mapping[str, int]:
        """Special tokens by name: those that no text becomes unless it is asked to."""
        return {self.piece(i): i for i in range(self.vocab_size) if self._look_up(i)[1]}

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of several texts put together, nothing added.

        Each comes with whether names of special tokens in it are those tokens; in the others they are plain text. Where
        no plain text has such a name, the ids are those of ``encode(text, bos=False, special=True)``.
        """
        whole = "".join(text for text, _ in parts)
        if not any(self._special_pattern.search(text) for text, special in parts if not special):
            return self.encode(whole, bos=False, special=True)
        return self._checked(self._encode_parts(parts))

    def _encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        ids: list[int] = []
        plain = ""
        for text, special in parts:
            for piece in self._special_pattern.split(text) if special else [text]:
                known = self.special_names.get(piece) if special else None
                if known is None:
                    plain += piece
                    continue
                ids += [*(self.encode(plain, bos=False, special=False) if plain else ()), known]
                plain = ""
        return ids + (self.encode(plain, bos=False, special=False) if plain else [])

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(filter(None, self.special_names), key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ``ids``; ill-formed UTF-8 becomes U+FFFD."""
        text = b"".join([self.bytes_of(i, skip_special=skip_special) for i in ids]).decode("utf-8", "replace")
        return drop_leading_spaces(text, self.leading_spaces)[0]

    def stream(self, prompt_ids: Sequence[int] = (), *, skip_special: bool = True) -> StreamDecoder:
        """A decoder that goes on where ``prompt_ids`` end: what it returns is the text they do not have yet."""
        decoder = StreamDecoder(self, skip_special=skip_special)
        for i in prompt_ids:
            decoder.push(i)
        return decoder

    def piece(self, token: int) -> str:
        """One id, for display: its text, its name if it is special, or ``<0xE4>`` for bytes that are no character."""
        data = self.bytes_of(token, skip_special=False)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    def bytes_of(self, token: int, *, skip_special: bool) -> bytes:
        """The bytes an id stands for, empty for unknown ids and for special ones when these are skipped."""
        known = self._known.get(token)
        if known is None:
            if not 0 <= token < self.vocab_size:
                return b""
            known = self._known[token] = self._look_up(token)
        data, is_special = known
        return b"" if is_special and skip_special else data

    @abstractmethod
    def _encode(self, text: str, *, add_special: bool, special: bool | None) -> list[int]:
        """The ids of well-formed ``text``, in a new list."""

    @abstractmethod
    def _look_up(self, token: int) -> tuple[bytes, bool]:
        """Bytes of an id in ``range(vocab_size)``, and whether it is special."""


class StreamDecoder:
    """Decodes ids one by one. All that it returns, put together, is `Tokenizer.decode` of all the ids."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._leading = tokenizer.leading_spaces

    def push(self, token: int) -> str:
        """The text that this id settles: whole characters only, often none."""
        return self._settle(self._utf8.decode(self._tokenizer.bytes_of(token, skip_special=self._skip_special)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished. The decoder then starts afresh."""
        text = self._settle(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        self._leading = self._tokenizer.leading_spaces
        return text

    def _settle(self, text: str) -> str:
        if self._leading:
            text, self._leading = drop_leading_spaces(text, self._leading)
        return text


def one_line(error: BaseException) -> str:
    """What a library says of a file, fit for a message: it may quote the file's own bytes."""
    text = " ".join(str(error).split())[:200]
    return "".join(char if char.isprintable() else "?" for char in text)


def drop_leading_spaces(text: str, count: int) -> tuple[str, int]:
    """``text`` without its first ``count`` spaces, and how many are still to be dropped from what follows it."""
    kept = text.lstrip(" ")
    spaces = len(text) - len(kept)
    if kept or spaces >= count:
        return text[min(spaces, count) :], 0
    return "", count - spaces
