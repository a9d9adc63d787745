"""A tokenizer for the words of the miniature's captions, one token a word, that warns about unknown words."""

import warnings
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BatchEncoding, PreTrainedTokenizerFast  # diffusers looks this name up here to load the class

from nitro_lab.mini.world import vocabulary

__all__ = ["MAX_LENGTH", "UnknownWordWarning", "WorldTokenizer", "make_tokenizer"]

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
MAX_LENGTH = 24  # tokens, start and end included; the longest caption has 15


class UnknownWordWarning(UserWarning):
    """A prompt contains a word that the miniature was not trained on."""


class WorldTokenizer(PreTrainedTokenizerFast):
    """Lower-cases, drops punctuation, maps each word to its token, and drops unknown words with a warning."""

    def __call__(self, text: str | list[str], *args: Any, **kwargs: Any) -> BatchEncoding:
        split = [self._split_known(prompt) for prompt in ([text] if isinstance(text, str) else text)]
        unknown = sorted({word for _, words in split for word in words})
        if unknown:
            warnings.warn(
                f"The miniature does not know {', '.join(unknown)}: ignored. "
                f"Words that it knows: {', '.join(vocabulary())}.",
                UnknownWordWarning,
                stacklevel=3,
            )
        known = [prompt for prompt, _ in split]
        return super().__call__(known[0] if isinstance(text, str) else known, *args, **kwargs)

    def _split_known(self, prompt: str) -> tuple[str, list[str]]:
        """A prompt without its unknown words, and these. The embedding of the unknown token is untrained."""
        splitter = self.backend_tokenizer
        splitter.no_truncation()  # set by the last call; the next one sets its own
        splitter.no_padding()
        encoding = splitter.encode(prompt, add_special_tokens=False)
        spans = [s for s, i in zip(encoding.offsets, encoding.ids, strict=True) if i == self.unk_token_id]
        words = [prompt[start:end].lower() for start, end in spans]
        for start, end in reversed(spans):
            prompt = f"{prompt[:start]} {prompt[end:]}"
        return prompt, words


def make_tokenizer() -> WorldTokenizer:
    """Make the tokenizer, with SDXL's start and end tokens and a token for unknown words."""
    tokens = [START, END, UNKNOWN, *vocabulary()]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    punctuation = pre_tokenizers.Punctuation(behavior="removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([punctuation, pre_tokenizers.Whitespace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, tokens.index(START)), (END, tokens.index(END))]
    )
    special = {"bos_token": START, "eos_token": END, "unk_token": UNKNOWN, "pad_token": END}
    return WorldTokenizer(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **special)
