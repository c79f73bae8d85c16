"""A tokenizer as the files of other programs: llama2.c's tokenizer.bin, and what a Hugging Face folder holds."""

from __future__ import annotations

import json
import struct

from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import protobuf
from graphllm.runtime.tokenizer.gguf_vocabulary import read_vocabulary, to_sentencepiece, to_tokenizer_json
from graphllm.runtime.tokenizer.llama2c import to_sentencepiece as from_llama2c

_SPACE = "\u2581"
_BOS, _EOS = 41, 42  # fields of the trainer's ids in a sentencepiece model


def to_tokenizer_bin(data: TokenizerData, where: str) -> bytes:
    """The tokenizer.bin of a sentencepiece vocabulary, as llama2.c's own exporter writes it.

    Raises:
        TokenizerError: the tokenizer has no scores, or is damaged.
    """
    if data.kind == "llama2.c":
        return data.blob
    proto = _sentencepiece(data)
    if proto is None:
        raise TokenizerError(
            f"{where}: a {data.kind} vocabulary, whose merges have ranks and its tokens no scores; "
            f"expected sentencepiece, the only kind that a tokenizer.bin can hold"
        )
    pieces: list[tuple[bytes, bytes]] = []
    ids = {_BOS: 1, _EOS: 2}
    try:
        for number, value in protobuf.fields(proto):
            if number == 1 and isinstance(value, bytes):
                entry = dict(protobuf.fields(value))
                text, score = entry.get(1, b""), entry.get(2, bytes(4))
                if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
                    raise ValueError("a piece without text or score")
                pieces.append((text, score))
            elif number == 2 and isinstance(value, bytes):
                ids |= {n: v for n, v in protobuf.fields(value) if n in ids and isinstance(v, int)}
        texts = [text.decode().replace(_SPACE, " ") for text, _ in pieces]
    except ValueError as e:
        raise TokenizerError(f"{where}: damaged, not a sentencepiece model; {e}") from None
    names = {ids[_BOS]: "\n<s>\n", ids[_EOS]: "\n</s>\n"}
    contents = [names.get(i, text).encode() for i, text in enumerate(texts)]
    out = bytearray(struct.pack("<I", max(map(len, contents), default=0)))
    for content, (_, score) in zip(contents, pieces, strict=True):
        out += score + struct.pack("<I", len(content)) + content
    return bytes(out)


def tokenizer_files(data: TokenizerData) -> dict[str, bytes]:
    """The files of a Hugging Face folder by name: the vocabulary, its config and its chat template."""
    proto = _sentencepiece(data)
    files: dict[str, bytes] = {}
    if proto is not None:
        files["tokenizer.model"] = proto
    elif data.kind == "gguf":
        files["tokenizer.json"] = to_tokenizer_json(read_vocabulary(data.blob))
    else:
        files["tokenizer.model" if data.kind == "tiktoken" else "tokenizer.json"] = data.blob
    config = data.config
    if not config and data.special_tokens:
        config = json.dumps(dict(data.special_tokens), indent=2, ensure_ascii=False)
    if config:
        files["tokenizer_config.json"] = config.encode()
    if data.chat_template:
        files["chat_template.jinja"] = data.chat_template.encode()
    return files


def _sentencepiece(data: TokenizerData) -> bytes | None:
    """The sentencepiece model that a tokenizer is, or was made from; None for byte-level vocabularies."""
    if data.kind == "sentencepiece":
        return data.blob
    if data.kind == "llama2.c":
        return from_llama2c(data.blob)
    if data.kind == "gguf":
        vocabulary = read_vocabulary(data.blob)
        return to_sentencepiece(vocabulary) if vocabulary.model == "llama" else None
    return None
