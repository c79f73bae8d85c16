"""A large tokenizer.json for short texts: only the words and merges that a text can use are given to the library.

The library takes two thirds of a second for the 128,000 words and 280,000 merges of Llama 3's file, of which a prompt
needs some hundred. How a word of a text is merged depends on nothing but the merges whose result is a part of it. So
an *index* of the file, made once (`index_of`), holds what is not words and merges as JSON, the merges as ids, the words
as lines; and for each text a BPE model is made of those that can matter, in their order. The library still does
all the work: it normalises, finds special tokens, cuts into words, merges, and adds what begins a text.

Only files whose words are bytes, spelled as GPT-2 does, have an index: then any text is made of 256 characters, which
are all that the library is given to cut a text into words.
"""

from __future__ import annotations

import json
from itertools import groupby
from operator import add
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.tokenizer.decode_rule import BYTE_LEVEL

INDEXED_FROM: Final = 1 << 20  # bytes of a file: smaller ones are read as fast as an index
SHORT: Final = 4096  # characters of all texts together: beyond that the whole file pays
_PARTS: Final = 1 << 18  # of a text's words: where these are so long that they have more, too


class Excerpt:
    """An index of a tokenizer.json, and the library with as much of the file as texts have needed.

    Attributes:
        library: the file without its words and merges: its ids are not the file's.
        size: how many ids the file has, added tokens included.
    """

    def __init__(self, index: bytes) -> None:
        from tokenizers import Tokenizer as Library

        line, rest = index.split(b"\n", 1)
        head: dict[str, Any] = json.loads(line)
        merges = np.frombuffer(rest, np.int32, 3 * head["merges"]).reshape(-1, 3)
        self._merges: NDArray[np.int32] = merges  # left, right, both together
        self._words = rest[merges.nbytes :].decode().split("\n")
        self._ids = dict(zip(self._words, range(len(self._words)), strict=True))
        self._longest: int = head["longest"]
        self._ignore_merges: bool = head["ignore_merges"]
        self._added: dict[str, int] = head["added"]
        self._names = {i: name for name, i in self._added.items()}
        self.size = len(self._ids.keys() | self._added.keys())
        self.library = Library.from_str(head["rest"])
        here = self.library.get_added_tokens_decoder()
        self._true = {i: self._added[token.content] for i, token in here.items()}  # id here -> the file's
        self._spent = 0
        self._merged: dict[str, list[int]] = {}

    def id_of(self, token: str) -> int | None:
        """As the library's ``token_to_id``: an added token before a word of the same name."""
        return self._added.get(token, self._ids.get(token))

    def text_of(self, token: int) -> str | None:
        """As the library's ``id_to_token``."""
        return self._names.get(token, self._words[token] if 0 <= token < len(self._words) else None)

    def encode(self, text: str, *, add_special: bool) -> list[int] | None:
        """As the library's ``encode(text, add_special_tokens=add_special).ids``; None where the whole file pays."""
        self._spent += len(text)
        if self._spent > SHORT:
            return None
        encoding = self.library.encode(text, add_special_tokens=add_special)
        # (number of the word, the id here, its spelling); what the template adds has no number, and its true id already
        pieces = zip(encoding.word_ids, encoding.ids, encoding.tokens, strict=True)
        words: list[int | str] = []
        for number, word in groupby(pieces, key=lambda piece: piece[0]):
            parts = list(word)
            if number is None:
                words += [i for _, i, _ in parts]
            elif parts[0][1] in self._true:
                words.append(self._true[parts[0][1]])
            else:
                words.append("".join(spelled for _, _, spelled in parts))
        new = {word for word in words if isinstance(word, str) and word not in self._merged}
        if sum(len(word) * min(len(word), self._longest) for word in new) > _PARTS:
            return None
        if new:
            self._merge(new)
        return [i for word in words for i in (self._merged[word] if isinstance(word, str) else (word,))]

    def _merge(self, words: set[str]) -> None:
        """Gives new words to the library with all that can become of their parts."""
        from tokenizers.models import BPE

        known = {
            part: self._ids[part]
            for word in words
            for begin in range(len(word))
            for end in range(begin + 1, min(len(word), begin + self._longest) + 1)
            if (part := word[begin:end]) in self._ids
        }
        wanted = np.zeros(len(self._words), bool)
        wanted[list(known.values())] = True
        some: list[list[int]] = self._merges[wanted[self._merges[:, 2]]].tolist()
        merges = [(self._words[left], self._words[right]) for left, right, _ in some]
        model = BPE(vocab=known, merges=merges, ignore_merges=self._ignore_merges)
        for word in words:
            self._merged[word] = [token.id for token in model.tokenize(word)]


def index_of(blob: bytes) -> bytes:
    """The index of a tokenizer.json, b"" for one that has none: damaged files too, which the library will tell of."""
    try:
        document: dict[str, Any] = json.loads(blob.decode())
        model: dict[str, Any] = document["model"]
        ids: dict[str, int] = model["vocab"]
        words = sorted(ids, key=ids.__getitem__)
        added: list[dict[str, Any]] = document.get("added_tokens") or []
        if not _can_be_indexed(document, words, added):
            return b""
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        lefts, rights = zip(*pairs, strict=True)
        number = ids.__getitem__
        columns = [list(map(number, texts)) for texts in (lefts, rights, map(add, lefts, rights))]
        letters = {word: i for i, word in enumerate(BYTE_LEVEL)}
        rest: dict[str, Any] = document | {
            "added_tokens": [token | {"id": len(letters) + i} for i, token in enumerate(added)],
            "model": {"type": "BPE", "vocab": letters, "merges": []},
            "padding": None,
            "truncation": None,
        }
        head = {
            "merges": len(pairs),
            "longest": max(map(len, words)),
            "ignore_merges": bool(model.get("ignore_merges")),
            "added": {token["content"]: token["id"] for token in added},
            "rest": json.dumps(rest),
        }
        merges = np.array(columns, np.int32).T
        return json.dumps(head).encode() + b"\n" + merges.tobytes() + "\n".join(words).encode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return b""


def _can_be_indexed(document: dict[str, Any], words: list[str], added: list[dict[str, Any]]) -> bool:
    """Whether words are spelled in bytes, ids are 0, 1, … without a hole, and merging has no rule but its merges."""
    model: dict[str, Any] = document["model"]
    ids: dict[str, int] = model["vocab"]
    rules = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token", "byte_fallback")
    names = [token["content"] for token in added]
    # the library counts on from the words, whatever the file says
    new = [token["id"] for token in added if token["content"] not in ids]
    return (
        model["type"] == "BPE"
        and not any(model.get(rule) for rule in rules)
        and _spells_bytes(document.get("pre_tokenizer"))
        and ids.keys() >= BYTE_LEVEL.keys()
        and [ids[word] for word in words] == list(range(len(words)))
        and not any("\n" in word or not word for word in words)
        and all(names)
        and len(names) == len(set(names))
        and new == list(range(len(words), len(words) + len(new)))
        and all(ids.get(token["content"], token["id"]) == token["id"] for token in added)
    )


def _spells_bytes(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether the last thing done to a text before it is merged is to spell its bytes."""
    while pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        pre_tokenizer = pre_tokenizer["pretokenizers"][-1] if pre_tokenizer["pretokenizers"] else None
    return bool(pre_tokenizer) and pre_tokenizer["type"] == "ByteLevel"
