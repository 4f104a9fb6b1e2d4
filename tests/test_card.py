import json

import pytest

from instruct_jax.data.card import data_card
from instruct_jax.records import Demonstration, Prompt, Ranking, Rating


class Letters:
    def encode_batch(self, texts):
        return [list(text) for text in texts]


def rank(prompt_id, prompt, labeler):
    return Ranking(prompt_id, prompt, labeler, ["x", "y"], [1, 2], ["m", "m"])


@pytest.fixture(scope="module")
def card():
    prompts = [
        Prompt("c1", "a", "customer", "u1", "", "chat"),
        Prompt("c2", "abc", "customer", "u1", "", "generation"),
        Prompt("c3", "abcde", "customer", "u2", "o1", "generation"),
        Prompt("w1", "ab", "labeler", "l1", "", "rewrite"),
    ]
    ratings = [
        Rating("c1", "a", "x", "m", "l", 4, flags) for flags in ({"sexual": True}, {"sexual": False}, {})
    ]
    records = {
        "prompts": {"train": prompts[:3], "valid": prompts[3:]},
        "demonstrations": {"train": [Demonstration("w1", "ab", "abcd"), Demonstration("lost", "abc", "")]},
        "rankings": {"train": [rank("c1", "a", "l1"), rank("c1", "a", "l2"), rank("c2", "abc", "l1")]},
        "ratings": {"train": ratings},
    }
    return data_card(records, Letters())


def test_the_card_has_the_papers_tables_and_is_json(card):
    assert list(card) == [f"table_{n}" for n in (1, 6, 7, 8, 9, 10, 11)]
    assert json.loads(json.dumps(card)) == card
    for table in card.values():
        assert table["rows"] and all(len(row) == len(table["columns"]) for row in table["rows"])


def test_use_cases_are_shares_of_prompts(card):
    assert card["table_1"]["columns"] == ["use case", "SFT", "RM", "PPO"]
    rows = {row[0]: row[1:] for row in card["table_1"]["rows"]}
    assert rows["generation"] == [0.0, 50.0, 50.0]
    assert rows["not known"] == [50.0, 0.0, 0.0]
    assert [round(sum(column)) for column in zip(*rows.values())] == [100, 100, 100]


def test_sizes_count_a_prompt_once_however_many_ranked_it(card):
    table = card["table_6"]
    assert table["columns"] == [
        "split",
        "SFT labeler",
        "SFT not known",
        "RM customer",
        "PPO customer",
        "PPO labeler",
    ]
    assert table["rows"] == [["train", 1, 1, 2, 3, 0], ["valid", 0, 0, 0, 0, 1]]


def test_flags_are_shares_of_the_ratings_that_were_asked(card):
    rows = {row[0]: row[1:] for row in card["table_7"]["rows"]}
    assert rows["sexual"] == [50.0] and rows["violent"] == [None]


def test_prompts_per_customer_count_organizations_before_users(card):
    assert ["PPO", "train", 2, 1.5] in card["table_8"]["rows"]
    assert ["RM", "train", 1, 2.0] in card["table_8"]["rows"]
    assert ["SFT", "train", 1, 1.0] in card["table_8"]["rows"], "a prompt of nobody known is no customer"


def test_lengths_are_summarised_in_tokens(card):
    assert ["PPO", "train", 3, 3.0, 1.6, 1, 2.0, 3.0, 4.0, 5] in card["table_9"]["rows"]
    assert ["generation", 2, 4.0, 1.0, 3, 3.5, 4.0, 4.5, 5] in card["table_10"]["rows"]
    assert ["labeler", "prompt", 1, 2.0, 0.0, 2, 2.0, 2.0, 2.0, 2] in card["table_11"]["rows"]
    assert ["labeler", "response", 1, 4.0, 0.0, 4, 4.0, 4.0, 4.0, 4] in card["table_11"]["rows"]
    assert ["not known", "response", 1, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0] in card["table_11"]["rows"]


def test_kinds_may_be_absent():
    empty = data_card({"documents": {}}, Letters())
    assert empty["table_6"]["rows"] == [] and empty["table_9"]["rows"] == []
