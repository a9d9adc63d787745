"""The tokenizer of the miniature's words."""

import warnings

import pytest
from transformers import AutoTokenizer

from nitro_lab.mini.tokenizer import MAX_LENGTH, UnknownWordWarning, WorldTokenizer, make_tokenizer
from nitro_lab.mini.world import all_scenes, caption


@pytest.fixture(scope="module")
def tokenizer() -> WorldTokenizer:
    return make_tokenizer()


def padded(tokenizer: WorldTokenizer, text: str | list[str]) -> list:
    """Tokens, padded as by SDXL's pipeline."""
    return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids


def test_every_word_of_every_caption_is_one_known_token(tokenizer):
    text = "a large striped red star at the top on a sunset background"
    tokens = tokenizer.convert_ids_to_tokens(padded(tokenizer, text))
    end = "<|endoftext|>"
    assert tokens == ["<|startoftext|>", *text.split(), end, *[end] * (MAX_LENGTH - 14)]
    captions = [caption(scene) for scene in all_scenes()[::7]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = tokenizer(captions).input_ids
    assert max(map(len, rows)) <= MAX_LENGTH
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == captions
    assert padded(tokenizer, "A Red_, STAR!") == padded(tokenizer, "a red star")  # case and punctuation are ignored


@pytest.mark.parametrize(
    ("prompt", "unknown", "known"),
    [
        ("€", "€", ""),
        ("red❤star, €5", "5, €, ❤", "red star"),
        ("İstanbul red", "i̇stanbul", "red"),
    ],
)
def test_unknown_words_and_symbols_are_named_and_ignored(tokenizer, prompt, unknown, known):
    with pytest.warns(UnknownWordWarning, match=f" {unknown}\\b|{unknown}:"):
        tokens = padded(tokenizer, prompt)
    assert tokens == padded(tokenizer, known)
    assert tokenizer.unk_token_id not in tokens


def test_unknown_words_of_several_prompts_give_one_warning(tokenizer):
    padded(tokenizer, "red")  # truncates; the next call must not inherit that
    with pytest.warns(UnknownWordWarning, match="cat, dog.*meadow") as record:  # unknown words, then known ones
        rows = padded(tokenizer, ["a red cat", "a blue Dog", "red " * 30 + "cat"])
    assert len(record) == 1
    assert rows == padded(tokenizer, ["a red", "a blue", "red " * 30])


@pytest.mark.parametrize("loader", [WorldTokenizer, AutoTokenizer])
def test_save_and_load_keep_the_tokens(tokenizer, tmp_path, loader):
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert padded(loaded, "a small pink heart") == padded(tokenizer, "a small pink heart")
    assert (loaded.model_max_length, loaded.pad_token_id) == (MAX_LENGTH, tokenizer.eos_token_id)
    with pytest.warns(UnknownWordWarning, match="❤"):
        WorldTokenizer.from_pretrained(tmp_path)("a ❤ red star")
