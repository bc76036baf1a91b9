"""The text of every token of a sequence. Joined, the texts are the text of the sequence, with special tokens.

A character may take several tokens. It then belongs to the last of them, and the others have an empty text.
"""

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import Any


@lru_cache(4)
def token_texts(tokenizer: Any) -> "TokenTexts":
    """One for each tokenizer, so that a token of the vocabulary is read once in a process."""
    return TokenTexts(tokenizer)


class TokenTexts:
    """Of one Hugging Face tokenizer: byte-level BPE (Qwen, Llama 3, gpt-oss) or SentencePiece with byte fallback."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(backend, "decoder", None))
        self._bytes: dict[int, bytes] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One text a token; bytes that are no UTF-8 are replaced as in decoding."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = [decoder.decode(self._piece(number)) for number in ids]
        rest = decoder.decode(b"", final=True)
        if rest:
            texts[-1] += rest
        return texts

    def _piece(self, number: int) -> bytes:
        piece = self._bytes.get(number)
        if piece is None:
            piece = self._bytes[number] = self._read(number)
        return piece

    def _read(self, number: int) -> bytes:
        if number in self._added:
            return self._added[number].encode()
        # Ids beyond the vocabulary, which padded embeddings can yield, have no text.
        piece = self._tokenizer.convert_ids_to_tokens(number) or ""
        if self._byte_level:
            alphabet = _byte_alphabet()
            return bytes(alphabet[char] for char in piece if char in alphabet)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()


@lru_cache(1)
def _byte_alphabet() -> dict[str, int]:
    """How byte-level vocabularies write a byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}
