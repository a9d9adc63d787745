"""A tokenizer over the words of the miniature's world, one token a word, which says so when it meets another word."""

import warnings
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BatchEncoding, PreTrainedTokenizerFast  # diffusers looks this name up here to load the class

from nitro_lab.mini.world import vocabulary

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
LENGTH = 24  # tokens, start and end included; the longest caption of the world has 15


class UnknownWordWarning(UserWarning):
    """A prompt holds a word that the miniature has never seen."""


class WorldTokenizer(PreTrainedTokenizerFast):
    """Lower-cases, drops punctuation, maps each word to its token, and drops words without one, with a warning."""

    def __call__(self, text: str | list[str], *args: Any, **kwargs: Any) -> BatchEncoding:
        read = [self.known_part(prompt) for prompt in ([text] if isinstance(text, str) else text)]
        unknown = sorted({word for _, words in read for word in words})
        if unknown:
            warnings.warn(
                f"the miniature does not know the {'word' if len(unknown) == 1 else 'words'} {', '.join(unknown)} and "
                f"reads over {'it' if len(unknown) == 1 else 'them'}. It knows: {', '.join(vocabulary())}.",
                UnknownWordWarning,
                stacklevel=3,
            )
        known = [prompt for prompt, _ in read]
        return super().__call__(known[0] if isinstance(text, str) else known, *args, **kwargs)

    def known_part(self, prompt: str) -> tuple[str, list[str]]:
        """A prompt without its unknown words, and these: no training has touched the unknown token's embedding."""
        splitter = self.backend_tokenizer
        splitter.no_truncation()  # the last call's; the next one sets its own
        splitter.no_padding()
        encoding = splitter.encode(prompt, add_special_tokens=False)
        spans = [s for s, i in zip(encoding.offsets, encoding.ids, strict=True) if i == self.unk_token_id]
        words = [prompt[start:end].lower() for start, end in spans]
        for start, end in reversed(spans):
            prompt = f"{prompt[:start]} {prompt[end:]}"
        return prompt, words


def make_tokenizer() -> WorldTokenizer:
    """The tokenizer, with SDXL's start and end tokens; the unknown word has a token of its own."""
    tokens = [START, END, UNKNOWN, *vocabulary()]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(behavior="removed"), pre_tokenizers.Whitespace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, tokens.index(START)), (END, tokens.index(END))]
    )
    return WorldTokenizer(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=LENGTH,
    )
