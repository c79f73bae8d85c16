"""tokenizer.json through the `tokenizers` library: BPE models, with the decoders of the Llama and Qwen families.

The file is parsed once, by the library; what else we need to know of it is asked of the loaded object, because parsing
several megabytes of JSON a second time would double the load time. With an index of it, not even once before texts are
longer than a prompt (``excerpt.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer.decode_rule import check_growth, check_template, read_decode_rule
from graphllm.runtime.tokenizer.excerpt import Excerpt
from graphllm.runtime.tokenizer.panics import library_errors
from graphllm.runtime.tokenizer.settings import Settings
from graphllm.runtime.tokenizer.tokenizer import END_NAMES, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_WHERE = "tokenizer.json"


class JsonTokenizer(Tokenizer):
    """A tokenizer.json; ``where`` names the file it was made from in messages, ``index`` is of it, if there is one."""

    def __init__(self, blob: bytes, settings: Settings, where: str = _WHERE, index: bytes | None = None) -> None:
        super().__init__(where)
        self._blob = blob
        self._lock = Lock()  # the library keeps "read special names or not" as a setting, not as an argument
        self._excerpt = None
        with library_errors(_WHERE, "cannot be read"):
            if index is not None:
                self._excerpt = Excerpt(index)
            library = self._excerpt.library if self._excerpt else self._library
            check_growth(library.normalizer)
            check_template(library.post_processor)
            rule = read_decode_rule(library.decoder)
            added = library.get_added_tokens_decoder()
            self.vocab_size = self._excerpt.size if self._excerpt else library.get_vocab_size(with_added_tokens=True)
            opening = library.encode("", add_special_tokens=True).ids
        self._rule = rule
        special = (token for token in added.values() if token.special)
        self._special = {i: token for token in special if (i := self._id_of(token.content)) is not None}
        self.leading_spaces = rule.leading_spaces
        if settings.bos_token is not None:
            self.bos_id = self._id_of(settings.bos_token)
        else:
            self.bos_id = opening[0] if opening else None
        names = END_NAMES if settings.eos_token is None else (settings.eos_token,)
        found = (self._id_of(name) for name in names)
        self.eos_ids = tuple(i for i in found if i is not None)

    @cached_property
    def _library(self) -> Library:
        """The whole file."""
        from tokenizers import Tokenizer as Library
        from tokenizers.models import BPE

        library = Library.from_buffer(self._blob)
        model = library.model
        if not isinstance(model, BPE):
            raise TokenizerError(f"{_WHERE}: unsupported model; expected BPE, got {type(model).__name__}")
        # A file may ask for padding to any length, for truncation, or for dropout: none of it is for inference.
        library.no_padding()
        library.no_truncation()
        if model.dropout is not None:
            model.dropout = None
        return library

    def _id_of(self, token: str) -> int | None:
        if not token:
            return None
        return self._excerpt.id_of(token) if self._excerpt else self._library.token_to_id(token)

    def _encode(self, text: str, *, add_special: bool, special: bool | None) -> list[int]:
        with self._lock, library_errors(_WHERE, "cannot encode this text"):
            if self._excerpt is not None and "_library" not in vars(self):
                self._excerpt.library.encode_special_tokens = special is False
                ids = self._excerpt.encode(text, add_special=add_special)
                if ids is not None:
                    return ids
            self._library.encode_special_tokens = special is False
            return self._library.encode(text, add_special_tokens=add_special).ids

    @cached_property
    def special_names(self) -> dict[str, int]:
        return {token.content: i for i, token in self._special.items()}

    def _encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """By the library in one go, since what it does with spaces depends on a token's neighbours.

        While it reads special names as text it still reads those of added tokens that are not special. So each special
        token that is meant gets such a twin, under a name that occurs nowhere in the text.
        """
        from tokenizers import AddedToken

        used = {char for text, _ in parts for char in text}
        mark = next(char for char in map(chr, range(0x100000, 0x10FFFE)) if char not in used)
        twins: dict[str, str] = {}
        for name, i in self.special_names.items():
            if any(special and name in text for text, special in parts):
                twins[name] = f"{mark}{i}{mark}"
        text = "".join(
            self._special_pattern.sub(lambda match: twins[match[0]], text) if special else text
            for text, special in parts
        )
        with self._lock, library_errors(_WHERE, "cannot encode this text"):
            meant: dict[int, int] = {}
            for name, twin in twins.items():
                i = self.special_names[name]
                token = self._special[i]
                added = AddedToken(twin, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
                self._library.add_tokens([added])  # pyright: ignore[reportUnknownMemberType]
                number = self._library.token_to_id(twin)
                assert number is not None
                meant[number] = i
            self._library.encode_special_tokens = True
            return [meant.get(i, i) for i in self._library.encode(text, add_special_tokens=False).ids]

    def _look_up(self, token: int) -> tuple[bytes, bool]:
        text = self._excerpt.text_of(token) if self._excerpt else self._library.id_to_token(token)
        return (b"", False) if text is None else (self._rule.bytes_of(text), token in self._special)
