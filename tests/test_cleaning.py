import itertools
import random

import pytest

from instruct_jax.data.cleaning.dedup import (
    cap_per_owner,
    drop_long,
    drop_shared_prefixes,
    shares_long_prefix,
)
from instruct_jax.data.cleaning.fewshot import expand_few_shot
from instruct_jax.data.cleaning.splits import owner, split_by_owner
from instruct_jax.errors import InputError
from instruct_jax.records import Prompt
from instruct_jax.text.templates import Template

RULE = dict(long=6, share=0.8, shortest=3)
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


class Words:
    """One id a word."""

    def encode_batch(self, texts):
        return [[sum(map(ord, word)) for word in text.split()] for text in texts]

    def encode_prompts(self, template, prompts):
        return self.encode_batch([template.render(prompt) for prompt in prompts])


def ids(text):
    return Words().encode_batch([text])[0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a b c d e f x y z q r s", "a b c d e f t u v w k l", True),  # 6 words: long
        ("a b c d e x y z q r s t", "a b c d e f t u v w k l", False),  # 5 of 12
        ("a b c d x", "a b c d y z q r s t", True),  # 4 of the shorter's 5 are 80 %
        ("a b c x y", "a b c z t q r s v w", False),  # 3 of 5
        ("what", "what is the time now", False),  # under the shortest prefix that counts
        ("what", "what", True),
    ],
)
def test_the_long_prefix_rule(a, b, expected):
    assert shares_long_prefix(ids(a), ids(b), **RULE) is expected
    assert shares_long_prefix(ids(b), ids(a), **RULE) is expected


def test_no_two_kept_prompts_share_the_long_prefix_and_no_removed_one_was_alone():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abc", weights=[9, 2, 1], k=rng.randint(1, 12))) for _ in range(400)]
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(texts)]
    kept, removed = drop_shared_prefixes(prompts, Words(), **RULE)
    assert len(kept) + removed == 400 and removed > 50 and len(kept) > 20
    assert [prompt.id for prompt in kept] == [prompt.id for prompt in prompts if prompt in kept]
    for a, b in itertools.combinations(kept, 2):
        assert not shares_long_prefix(ids(a.text), ids(b.text), **RULE), (a, b)
    for prompt in prompts:
        if prompt not in kept:
            assert any(shares_long_prefix(ids(prompt.text), ids(other.text), **RULE) for other in kept)


def test_an_owner_is_capped_by_organization_else_by_user():
    prompts = [Prompt(f"o{i}", "x", user=f"u{i}", organization="acme") for i in range(300)]
    prompts += [Prompt(f"u{i}", "x", user="ann") for i in range(250)]
    prompts += [Prompt(f"n{i}", "x") for i in range(300)]
    kept, removed = cap_per_owner(prompts, 200)
    assert removed == 150 and len(kept) == 700
    assert sum(p.organization == "acme" for p in kept) == sum(p.user == "ann" for p in kept) == 200
    assert kept == sorted(kept, key=prompts.index)


def test_all_kept_prompts_fit_when_rendered():
    prompts = [Prompt("a", "one two"), Prompt("b", "one two three")]
    assert drop_long(prompts, Words(), Template("say ", ""), 3) == ([prompts[0]], 1)


def make_prompts(users):
    return [
        Prompt(f"p{u}.{i}", "x", user=f"u{u}", organization=f"o{u // 3}") for u in users for i in range(2)
    ]


def test_no_user_or_organization_is_in_two_splits_and_sizes_are_near_the_shares():
    splits = split_by_owner(make_prompts(range(3000)), SHARES, seed=0)
    for name in ("user", "organization"):
        sets = [{getattr(prompt, name) for prompt in rows} for rows in splits.values()]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert sum(map(len, splits.values())) == 6000
    assert abs(len(splits["valid"]) / 6000 - 0.1) < 0.03


def test_more_data_moves_nobody():
    few, many = (split_by_owner(make_prompts(range(n)), SHARES, seed=0) for n in (60, 600))
    for name, rows in few.items():
        assert set(rows) <= set(many[name])


def test_the_seed_deals_anew():
    assert split_by_owner(make_prompts(range(300)), SHARES, seed=0) != split_by_owner(
        make_prompts(range(300)), SHARES, seed=1
    )


def test_a_user_of_two_organizations_and_bad_shares_are_errors():
    prompts = [Prompt("p1", "x", user="ann", organization="a"), Prompt("p2", "x", user="ann")]
    with pytest.raises(InputError, match="user 'ann' belongs to organization:a and to user:ann"):
        split_by_owner(prompts, SHARES, seed=0)
    with pytest.raises(InputError, match="sum to 1"):
        split_by_owner(prompts, {"train": 0.8}, seed=0)


def test_an_owner_is_never_mistaken_for_another_kind():
    assert (
        len(
            {
                owner(Prompt("x", "t", user="x")),
                owner(Prompt("y", "t", organization="x")),
                owner(Prompt("x", "t")),
            }
        )
        == 3
    )


def test_k_pairs_make_k_examples_with_k_minus_one_shots():
    rows, removed = expand_few_shot(
        "p", "Name the colour.", [("sky", "blue"), ("grass", "green"), ("sun", "gold")], "l"
    )
    assert removed == 0
    assert [(row.prompt_id, row.response) for row in rows] == [
        ("p/0", "blue"),
        ("p/1", "green"),
        ("p/2", "gold"),
    ]
    assert rows[1].prompt == "Name the colour.\n\nsky\nblue\n\nsun\ngold\n\ngrass"
    assert all(row.response not in row.prompt for row in rows)


def test_a_repeated_query_never_shows_its_own_answer():
    rows, removed = expand_few_shot("p", "Do.", [("a", "one"), ("b", "two"), ("a", "one")], "l")
    assert removed == 1 and len(rows) == 2
    assert all(row.response not in row.prompt for row in rows)
    with pytest.raises(InputError, match="few-shot prompt p: has 1"):
        expand_few_shot("p", "Do.", [("a", "one"), ("a", "two")], "l")
