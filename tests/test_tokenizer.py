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
    assert tokens == padded(tokenizer, "a red on a meadow background")


@pytest.mark.parametrize(
    ("prompt", "unknown", "read"),
    [
        ("a red dragon star", "the word dragon", "a red star"),
        ("a red ❤", "the word ❤", "a red"),
        ("€", "the word €", ""),
        ("red❤star, €5", "the words 5, €, ❤", "red star"),
        ("İstanbul red", "the word i̇stanbul", "red"),
    ],
)
def test_unknown_words_and_symbols_are_named_and_read_over(tokenizer, prompt, unknown, read):
    with pytest.warns(UnknownWordWarning, match=f"does not know {unknown} and"):
        tokens = padded(tokenizer, prompt)
    assert tokens == padded(tokenizer, read)
    assert tokenizer.unk_token_id not in tokens


def test_known_words_without_a_space_between_them_are_read_without_a_warning(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert padded(tokenizer, "red_star") == padded(tokenizer, "red star")


def test_an_unknown_word_beyond_the_length_is_named_too(tokenizer):
    padded(tokenizer, "red")  # a call that cuts: the next must not inherit it
    with pytest.warns(UnknownWordWarning, match="dragon"):
        padded(tokenizer, "red " * 30 + "dragon")


def test_unknown_words_of_several_prompts_are_named_together_and_once(tokenizer):
    with pytest.warns(UnknownWordWarning, match="the words cat, dog and") as record:
        rows = padded(tokenizer, ["a red cat", "a blue Dog", "a green cat"])
    assert len(record) == 1
    assert rows == padded(tokenizer, ["a red", "a blue", "a green"])


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


def test_the_loaded_one_warns_and_reads_over_it_too(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UnknownWordWarning, match="❤"):
        tokens = WorldTokenizer.from_pretrained(tmp_path)("a ❤ red star").input_ids
    assert tokens == tokenizer("a red star").input_ids
