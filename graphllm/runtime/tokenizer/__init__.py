"""Text to ids and back, for the tokenizer a plan carries.

The well-kept libraries encode: `tokenizers` for tokenizer.json, `sentencepiece` for tokenizer.model, and for llama2.c's
tokenizer.bin too, since its algorithm is sentencepiece's; a GGUF file's vocabulary is one of the two. Llama 3's
tiktoken file is merged by our own few lines. Decoding is ours and the same for all, because no library streams: an id
is bytes, a text is the UTF-8 of the bytes.
"""

from __future__ import annotations

from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer.settings import read_settings
from graphllm.runtime.tokenizer.tokenizer import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]


def load_tokenizer(data: TokenizerData, model_vocab: int, index: bytes | None = None) -> Tokenizer:
    """The tokenizer in ``data``, checked against a model of ``model_vocab`` embedding rows; ``index`` is of its file.

    Fewer ids than rows is common (rows are padded for speed); more means that the two do not belong together.

    Raises:
        TokenizerError: it is damaged, of a kind that is not supported, or has more ids than the model has rows.
    """
    settings = read_settings(data.config)
    tokenizer: Tokenizer
    if data.kind == "tokenizer.json":
        from graphllm.runtime.tokenizer.tokenizer_json import JsonTokenizer

        where, tokenizer = "tokenizer.json", JsonTokenizer(data.blob, settings, index=index)
    elif data.kind == "sentencepiece":
        from graphllm.runtime.tokenizer.sentencepiece_model import SentencePieceTokenizer

        where, tokenizer = "tokenizer.model", SentencePieceTokenizer("tokenizer.model", data.blob, settings)
    elif data.kind == "tiktoken":
        from graphllm.runtime.tokenizer.tiktoken_file import TiktokenTokenizer

        where, tokenizer = "tokenizer.model (tiktoken)", TiktokenTokenizer(data.blob, settings)
    elif data.kind == "gguf":
        from graphllm.runtime.tokenizer.gguf_vocabulary import WHERE, from_gguf

        where, tokenizer = WHERE, from_gguf(data.blob)
    else:
        from graphllm.runtime.tokenizer.llama2c import to_sentencepiece
        from graphllm.runtime.tokenizer.sentencepiece_model import SentencePieceTokenizer

        where = "tokenizer.bin"
        tokenizer = SentencePieceTokenizer(where, to_sentencepiece(data.blob), settings)
    if tokenizer.vocab_size > model_vocab:
        raise TokenizerError(
            f"{where}: does not belong to this model; expected at most {model_vocab} ids, the model's embedding rows, "
            f"got {tokenizer.vocab_size}"
        )
    return tokenizer
