"""The tokenizer of the miniature's words."""

import warnings

import pytest
from transformers import AutoTokenizer

from nitro_lab.mini.tokenizer import LENGTH, UnknownWordWarning, WorldTokenizer, make_tokenizer
from nitro_lab.mini.world import all_scenes, caption, vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> WorldTokenizer:
    return make_tokenizer()


def padded(tokenizer: WorldTokenizer, text: str | list[str]) -> list:
    """As SDXL's pipeline asks."""
    return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids


def test_each_word_is_one_token_between_start_and_end(tokenizer):
    text = "a large striped red star at the top on a sunset background"
    tokens = tokenizer.convert_ids_to_tokens(padded(tokenizer, text))
    assert len(tokens) == LENGTH
    assert tokens[:14] == ["<|startoftext|>", *text.split(), "<|endoftext|>"]
    assert set(tokens[14:]) == {"<|endoftext|>"}


def test_every_caption_fits_and_is_known_without_a_warning(tokenizer):
    captions = [caption(scene) for scene in all_scenes()[::7]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = tokenizer(captions).input_ids
    assert max(map(len, rows)) <= LENGTH
    assert all(tokenizer.unk_token_id not in row for row in rows)
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == captions


def test_case_and_punctuation_do_not_matter(tokenizer):
    assert padded(tokenizer, "A Red, STAR!") == padded(tokenizer, "a red star")


def test_an_unknown_word_is_named_with_the_known_ones(tokenizer):
    with pytest.warns(UnknownWordWarning) as record:
        tokens = padded(tokenizer, "a red dragon on a meadow background")
    (message,) = [str(warning.message) for warning in record]
    assert "the word dragon" in message
    assert all(word in message for word in vocabulary())
    assert tokens[3] == tokenizer.unk_token_id


def test_unknown_words_of_several_prompts_are_named_together_and_once(tokenizer):
    with pytest.warns(UnknownWordWarning, match="the words cat, dog and") as record:
        padded(tokenizer, ["a red cat", "a blue Dog", "a green cat"])
    assert len(record) == 1


def test_empty_prompt_is_start_and_end(tokenizer):
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


@pytest.mark.parametrize("loader", [WorldTokenizer, AutoTokenizer])
def test_saved_and_loaded_it_gives_the_same_tokens(tokenizer, tmp_path, loader):
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    text = "a small checkered pink heart in the center on an ocean background"
    assert padded(loaded, text) == padded(tokenizer, text)
    assert (loaded.model_max_length, loaded.pad_token_id) == (LENGTH, tokenizer.eos_token_id)
    assert len(loaded) == len(tokenizer)


def test_the_loaded_one_warns_too(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UnknownWordWarning, match="dragon"):
        WorldTokenizer.from_pretrained(tmp_path)("a red dragon")
