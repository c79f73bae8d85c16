"""Llama 3's own tokenizer.model: lines of base64 and rank, encoded as tiktoken does.

A text is cut into words by a regular expression; a word that is a token is that token, and else its bytes are merged,
always the adjacent pair whose concatenation has the lowest rank, the leftmost of equal ones. The 256 special tokens
follow the file's own and are written nowhere in it. In a text their names are text, unless they are asked for.

Ours, over the ``tokenizers`` library's regular expressions: turned into its merges, the ranks would no longer tell
which of two equal pairs is the leftmost, and the tiktoken library would bring an HTTP client along.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import re
from functools import cached_property

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer.settings import Settings
from graphllm.runtime.tokenizer.tokenizer import Tokenizer

_WHERE = "tokenizer.model (tiktoken)"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIALS = 256
_MAX_RANKS = 1 << 20
_RUN = 25_000  # Meta's encoder cuts longer runs of spaces, or of anything else, so that no word takes forever
_CUT = re.compile(rf"\s{{1,{_RUN}}}|\S{{1,{_RUN}}}")
_CHUNK = 400_000


def special_names(first: int) -> dict[str, int]:
    """The special tokens by name. Llama 3.1 gave three of the reserved ones names; both are understood."""
    named = ["begin_of_text", "end_of_text", *(f"reserved_special_token_{i}" for i in range(4))]
    named += ["start_header_id", "end_header_id", "reserved_special_token_4", "eot_id"]
    named += [f"reserved_special_token_{i}" for i in range(5, _SPECIALS - len(named) + 5)]
    names = {f"<|{name}|>": first + i for i, name in enumerate(named)}
    return names | {"<|finetune_right_pad_id|>": first + 4, "<|eom_id|>": first + 8, "<|python_tag|>": first + 10}


class TiktokenTokenizer(Tokenizer):
    """A file of ranks, and Llama 3's special tokens behind them."""

    leading_spaces = 0

    def __init__(self, blob: bytes, settings: Settings) -> None:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        super().__init__(_WHERE)
        self._ranks = read_ranks(blob)
        self._bytes = sorted(self._ranks, key=self._ranks.__getitem__)
        first = len(self._ranks)
        self._names = special_names(first)
        self._name_of = {token: name for name, token in self._names.items()}  # the later names win
        self._words = Split(Regex(_PATTERN), "isolated")
        self.vocab_size = first + _SPECIALS
        self._add_bos = settings.add_bos is not False
        self.bos_id = self._names["<|begin_of_text|>"]
        self.eos_ids = tuple(self._names[f"<|{name}|>"] for name in ("end_of_text", "eot_id"))

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        return re.compile("(" + "|".join(map(re.escape, sorted(self._names, key=len, reverse=True))) + ")")

    def _encode(self, text: str, *, add_special: bool, special: bool | None) -> list[int]:
        ids = [self.bos_id] if add_special and self._add_bos and self.bos_id is not None else []
        for part in self._special_pattern.split(text) if special else [text]:
            known = self._names.get(part) if special else None
            if known is not None:
                ids.append(known)
                continue
            for at in range(0, len(part), _CHUNK):
                for piece in _pieces(part[at : at + _CHUNK]):
                    self._encode_words(piece, ids)
        return ids

    def _encode_words(self, text: str, ids: list[int]) -> None:
        for word, _ in self._words.pre_tokenize_str(text):
            data = word.encode("utf-8")
            rank = self._ranks.get(data)
            if rank is not None:
                ids.append(rank)
            else:
                ids += merged(data, self._ranks)

    def _look_up(self, token: int) -> tuple[bytes, bool]:
        if token < len(self._bytes):
            return self._bytes[token], False
        return self._name_of[token].encode("utf-8"), True


def _pieces(text: str) -> list[str]:
    """The text in parts without a run of more than 25,000 spaces or non-spaces: whole, nearly always."""
    if len(text) <= _RUN:
        return [text]
    parts: list[str] = []
    begin, length, before = 0, 0, False
    for run in _CUT.finditer(text):
        is_space = run[0][0].isspace()
        length = length + len(run[0]) if is_space == before else len(run[0])
        if length > _RUN:
            parts.append(text[begin : run.start()])
            begin, length = run.start(), len(run[0])
        before = is_space
    return [*parts, text[begin:]]


def read_ranks(blob: bytes) -> dict[bytes, int]:
    """Bytes to rank: every rank from 0 on once, every single byte among them. TokenizerError for anything else."""
    if blob.count(b"\n") > _MAX_RANKS:
        raise TokenizerError(f"{_WHERE}: more than {_MAX_RANKS} lines; expected a line for each token")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(blob.split(b"\n"), 1):
        if not line.strip():
            continue
        fields = line.split()
        try:
            if len(fields) != 2 or len(fields[1]) > 9:
                raise ValueError
            token, rank = base64.b64decode(fields[0], validate=True), int(fields[1])
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{_WHERE}: line {number} is {line[:40]!r}; expected base64 and a rank") from None
        if not token or token in ranks:
            raise TokenizerError(f"{_WHERE}: line {number} has no token or one that was there; expected a new one")
        ranks[token] = rank
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(f"{_WHERE}: ranks have holes or repeat; expected 0 to {len(ranks) - 1}, each once")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"{_WHERE}: byte {missing[0]:02X} is no token; expected all 256")
    return ranks


def merged(data: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The ids of one word, in O(n log n): a heap of pairs over a linked list of parts."""
    n = len(data)
    ends = list(range(1, n + 1))  # of the part that begins here; 0 once it was merged into the one before
    before = list(range(-1, n))  # where the part in front begins
    heap: list[tuple[int, int, int]] = []  # rank, begin, end of the concatenation

    def offer(begin: int) -> None:
        middle = ends[begin]
        if middle < n:
            rank = ranks.get(data[begin : ends[middle]])
            if rank is not None:
                heapq.heappush(heap, (rank, begin, ends[middle]))

    for begin in range(n - 1):
        offer(begin)
    while heap:
        _, begin, end = heapq.heappop(heap)
        middle = ends[begin]
        if middle in (0, n) or ends[middle] != end:
            continue  # one of the two has since become part of another
        ends[begin], ends[middle] = end, 0
        if end < n:
            before[end] = begin
            offer(begin)
        if before[begin] >= 0:
            offer(before[begin])
    out: list[int] = []
    at = 0
    while at < n:
        out.append(ranks[data[at : ends[at]]])
        at = ends[at]
    return out
