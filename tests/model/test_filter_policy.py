"""Filters against their own rules, and against moto's implementation of the same language."""

import json
import random
from typing import Any

import pytest
from moto.sns.exceptions import SNSInvalidParameter
from moto.sns.models import SNSBackend
from moto.sns.utils import FilterPolicyMatcher

from tintype.model.errors import PolicyInvalid
from tintype.model.event import Kind
from tintype.model.event_attributes import Attribute
from tintype.model.filter_policy import ATTRIBUTES, MAX_KEYS, check_filter, combinations, failing, matches

PNG: dict[str, Attribute] = {
    "kind": "image.uploaded",
    "ext": "png",
    "content_type": "image/png",
    "bytes": 2_000_000,
    "width": 800,
    "height": 600,
    "tags": ["holiday", "rome"],
    "owner": "anna",
}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, True),
        ({"ext": ["png"]}, True),
        ({"ext": ["jpg", "png"]}, True),
        ({"ext": ["jpg"]}, False),
        ({"ext": ["PNG"]}, False),
        ({"ext": ["png"], "bytes": [{"numeric": [">", 1_000_000]}]}, True),
        ({"ext": ["png"], "bytes": [{"numeric": [">", 2_000_000]}]}, False),
        ({"bytes": [{"numeric": [">=", 2_000_000]}]}, True),
        ({"bytes": [{"numeric": [">", 0, "<=", 2_000_000]}]}, True),
        ({"bytes": [{"numeric": [">", 0, "<", 2_000_000]}]}, False),
        ({"bytes": [{"numeric": ["=", 2e6]}]}, True),
        ({"width": [800]}, True),
        ({"width": [800.0]}, True),
        ({"width": [801, {"numeric": ["<", 100]}]}, False),
        ({"width": [{"anything-but": 800}]}, False),
        ({"width": [{"anything-but": [1, 2]}]}, True),
        ({"content_type": [{"prefix": "image/"}]}, True),
        ({"content_type": [{"suffix": "/jpeg"}]}, False),
        ({"content_type": [{"suffix": "/png"}]}, True),
        ({"ext": [{"equals-ignore-case": "PnG"}]}, True),
        ({"ext": [{"anything-but": ["png"]}]}, False),
        ({"ext": [{"anything-but": "jpg"}]}, True),
        ({"ext": [{"anything-but": {"prefix": "p"}}]}, False),
        ({"tags": ["rome"]}, True),
        ({"tags": ["paris"]}, False),
        ({"tags": [{"prefix": "holi"}]}, True),
        # One unwanted element is enough ("String value matching": none of them may be listed).
        ({"tags": [{"anything-but": ["rome"]}]}, False),
        ({"tags": [{"anything-but": ["paris"]}]}, True),
        ({"tags": [{"anything-but": {"prefix": "ro"}}]}, False),
        ({"tags": [{"exists": True}]}, True),
        ({"tags": [{"exists": False}]}, False),
        ({"camera": [{"exists": False}]}, True),
        ({"camera": ["x"]}, False),
        ({"camera": [{"anything-but": ["x"]}]}, False),
        ({"camera": [{"exists": False}, {"anything-but": ["x"]}]}, True),
        ({"$or": [{"ext": ["jpg"]}, {"bytes": [{"numeric": [">", 1]}]}]}, True),
        ({"$or": [{"ext": ["jpg"]}, {"bytes": [{"numeric": ["<", 1]}]}]}, False),
        ({"width": [800], "$or": [{"ext": ["png"]}, {"height": [1]}]}, True),
        ({"width": [1], "$or": [{"ext": ["png"]}, {"height": [1]}]}, False),
        ({"$or": [{"$or": [{"ext": ["gif"]}, {"ext": ["png"]}]}, {"height": [1]}]}, True),
        ({"width": [True]}, False),
        ({"width": [None]}, False),
        ({"ext": [1]}, False),
        ({"ext": [{"numeric": ["=", 1]}]}, False),
        ({"ext": [{"cidr": "10.0.0.0/8"}]}, False),
    ],
)
def test_a_policy_matches_as_sns_documents_it(policy: dict[str, Any], *, expected: bool) -> None:
    assert matches(policy, PNG) is expected
    assert bool(failing(policy, PNG)) is not expected


def test_addresses_are_compared_by_their_network() -> None:
    policy = {"source": [{"cidr": "10.0.0.0/24"}]}
    assert matches(policy, {"source": "10.0.0.255"})
    assert not matches(policy, {"source": "10.0.1.0"})
    assert not matches(policy, {"source": "no address"})


def test_the_keys_that_say_no_are_named() -> None:
    policy = {
        "ext": ["jpg"],
        "bytes": [{"numeric": [">", 1]}],
        "$or": [{"width": [1]}, {"ext": ["png"], "tags": ["paris"]}],
    }
    assert failing(policy, PNG) == ["ext", "$or/0/width", "$or/1/tags"]


GOOD: list[dict[str, Any]] = [
    {},
    {"ext": ["png"], "bytes": [{"numeric": [">", 1_000_000]}]},
    {"tags": [{"anything-but": ["a", "b"]}, {"exists": False}]},
    {"content_type": [{"anything-but": {"prefix": "image/"}}]},
    {"bytes": [{"numeric": [">", -1e9, "<=", 1e9]}]},
    {"bytes": [0.12345]},
    {"kind": ["image.deleted", {"prefix": "subscription."}]},
    {"$or": [{"ext": ["png"]}, {"bytes": [{"numeric": [">", 1]}]}]},
    {"ext": [f"a{number}" for number in range(150)]},
    {"ext": ["a"] * 15, "tags": ["b"] * 10},
    {"ext": ["a"], "content_type": ["b"], "bytes": [1], "width": [1]},
]


@pytest.mark.parametrize("wanted", GOOD, ids=str)
def test_a_filter_within_the_limits_of_sns_is_taken(wanted: dict[str, Any]) -> None:
    check_filter(wanted, ())


@pytest.mark.parametrize(
    ("wanted", "pointer", "said"),
    [
        ({"colour": ["red"]}, "/filter/colour", '"colour" is no attribute of events'),
        ({"a/b": ["red"]}, "/filter/a~1b", "is no attribute"),
        ({"owner": ["bert"]}, "/filter/owner", "your own images only"),
        ({"$or": [{"ext": ["png"]}, {"owner": ["bert"]}]}, "/filter/$or/1/owner", "your own images only"),
        ({"ext": "png"}, "/filter/ext", "takes a list"),
        ({"ext": []}, "/filter/ext", "not empty"),
        ({"ext": {"prefix": "p"}}, "/filter/ext", "takes a list"),
        ({"ext": ["png", "JPG"]}, "/filter/ext/1", 'write "jpg"'),
        ({"ext": [""]}, "/filter/ext/0", "not empty"),
        ({"ext": [1]}, "/filter/ext/0", "it is text"),
        (
            {"kind": ["image.uploaded", "image.painted"]},
            "/filter/kind/1",
            '"image.painted" is no kind of event',
        ),
        ({"kind": [{"anything-but": ["painted"]}]}, "/filter/kind/0", "There are image.uploaded, "),
        ({"ext": [None]}, "/filter/ext/0", "it is text"),
        ({"ext": [["png"]]}, "/filter/ext/0", "a list is none"),
        ({"tags": ["\ud800"]}, "/filter/tags/0", "halves"),
        ({"tags": [{"suffix": "a\nb"}]}, "/filter/tags/0", "control"),
        ({"tags": ['say "hi"']}, "/filter/tags/0", "quotation marks"),
        ({"tags": [{"prefix": "a\\b"}]}, "/filter/tags/0", "backslashes"),
        ({"ext": [{"wildcard": "p*"}]}, "/filter/ext/0", '"wildcard" is no operator of SNS'),
        ({"ext": [{"prefix": "p", "suffix": "g"}]}, "/filter/ext/0", "one operator"),
        ({"ext": [{}]}, "/filter/ext/0", "one operator"),
        ({"ext": [{"prefix": 1}]}, "/filter/ext/0", "takes a text"),
        ({"ext": [{"exists": "yes"}]}, "/filter/ext/0", "true or false"),
        ({"ext": [{"cidr": "10.0.0.1/8"}]}, "/filter/ext/0", "takes a network"),
        ({"ext": [{"numeric": ["=", 1]}]}, "/filter/ext/0", "compares numbers"),
        ({"ext": [{"anything-but": {"suffix": "g"}}]}, "/filter/ext/0", "`anything-but`"),
        ({"ext": [{"anything-but": []}]}, "/filter/ext/0", "one value at least"),
        ({"ext": [{"anything-but": ["a", 1]}]}, "/filter/ext/0", "it is text"),
        ({"bytes": ["100"]}, "/filter/bytes/0", "it is a number"),
        ({"bytes": [True]}, "/filter/bytes/0", "it is a number"),
        ({"bytes": [{"prefix": "1"}]}, "/filter/bytes/0", "compares texts"),
        ({"bytes": [1e9 + 1]}, "/filter/bytes/0", "-1000000000 to 1000000000"),
        ({"bytes": [float("nan")]}, "/filter/bytes/0", "to 1000000000"),
        ({"bytes": [0.123456]}, "/filter/bytes/0", "5 digits"),
        ({"bytes": [{"numeric": []}]}, "/filter/bytes/0", "a range is"),
        ({"bytes": [{"numeric": ["!", 1]}]}, "/filter/bytes/0", "a range is"),
        ({"bytes": [{"numeric": ["<", 1, ">", 0]}]}, "/filter/bytes/0", "a range is"),
        ({"bytes": [{"numeric": [">", True]}]}, "/filter/bytes/0", "a range is"),
        ({"bytes": [{"numeric": [">", 1, "<", False]}]}, "/filter/bytes/0", "a range is"),
        ({"bytes": [{"numeric": [">", 5, "<", 5]}]}, "/filter/bytes/0", "below the upper one"),
        ({"bytes": [{"numeric": [">", 2e9]}]}, "/filter/bytes/0", "1000000000"),
        ({"$or": [{"ext": ["png"]}]}, "/filter/$or", "two filters or more"),
        ({"$or": {"ext": ["png"]}}, "/filter/$or", "two filters or more"),
        ({"$or": [{"ext": ["png"]}, {}]}, "/filter/$or", "two filters or more"),
        ({"$or": [{"numeric": 123}, {"prefix": "abc"}]}, "/filter/$or/0/numeric", "is no attribute"),
        ({"ext": [f"a{number}" for number in range(151)]}, "/filter", "multiply to 151"),
        ({"ext": ["a"] * 13, "tags": ["b"] * 12}, "/filter", "multiply to 156"),
        (
            {"ext": ["a"], "content_type": ["b"], "bytes": [1], "width": [1], "height": [1]},
            "/filter",
            "too many keys",
        ),
    ],
    ids=str,
)
def test_a_filter_that_sns_refuses_or_that_never_matches_is_refused_by_its_key(
    wanted: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        check_filter(wanted, ())
    assert said in str(refused.value)
    assert refused.value.details["errors"][0]["pointer"] == pointer


def test_kinds_count_among_the_keys_and_combinations() -> None:
    four = {"ext": ["a"], "content_type": ["b"], "bytes": [1], "width": [1]}
    check_filter(four, ())
    with pytest.raises(PolicyInvalid, match="kind and owner are two of them"):
        check_filter(four, ["image.uploaded"])
    with pytest.raises(PolicyInvalid, match="multiply to 180"):
        check_filter({"ext": ["a"] * 90}, ["image.uploaded", "image.deleted"])
    with pytest.raises(PolicyInvalid, match="not in both"):
        check_filter({"kind": ["image.deleted"]}, ["image.uploaded"])


def test_a_filter_of_a_hostile_depth_or_length_is_refused() -> None:
    deep: dict[str, Any] = {"ext": ["png"]}
    for _ in range(300):
        deep = {"$or": [deep, {"ext": ["jpg"]}]}
    with pytest.raises(PolicyInvalid, match="deep"):
        check_filter(deep, ())
    with pytest.raises(PolicyInvalid, match="256 KB"):
        check_filter({"tags": ["x" * 300_000]}, ())


def test_every_mistake_is_told_up_to_a_number() -> None:
    with pytest.raises(PolicyInvalid) as refused:
        check_filter({f"no{number}": ["x"] for number in range(100)}, ())
    assert len(refused.value.details["errors"]) == 20


# The difference to moto

TEXTS = ["png", "jpg", "gif", "image/png", "image/jpeg", "rome", "roma", "paris", "holiday", "p", "ro", "1"]
KINDS = [kind.value for kind in Kind]
NUMBERS = [0, 1, 2, 10, 99.5, 100, 1000, 123456, 999_999_999]


def random_rule(dice: random.Random, name: str) -> object:
    kind = ATTRIBUTES[name]
    if kind == "a number":
        low, high = sorted(dice.sample(NUMBERS, 2))
        return dice.choice(
            [
                dice.choice(NUMBERS),
                {"numeric": [dice.choice(["=", "<", "<=", ">", ">="]), dice.choice(NUMBERS)]},
                {"numeric": [dice.choice([">", ">="]), low, dice.choice(["<", "<="]), high]},
                {"anything-but": [*dice.sample(NUMBERS, 2)]},
                {"exists": dice.random() < 0.5},
            ]
        )
    texts = KINDS if name == "kind" else TEXTS
    return dice.choice(
        [
            dice.choice(texts),
            {"prefix": dice.choice(texts)[: dice.randint(1, 12)]},
            {"suffix": dice.choice(texts)[-dice.randint(1, 12) :]},
            {"equals-ignore-case": dice.choice(texts).swapcase()},
            {"anything-but": dice.choice(texts)},
            {"anything-but": dice.sample(texts, 2)},
            {"anything-but": {"prefix": dice.choice(texts)[: dice.randint(1, 12)]}},
            {"exists": dice.random() < 0.5},
        ]
    )


def random_policy(dice: random.Random, names: list[str], depth: int = 0) -> dict[str, Any]:
    policy: dict[str, Any] = {
        name: [random_rule(dice, name) for _ in range(dice.randint(1, 3))]
        for name in dice.sample(names, dice.randint(1, min(2, len(names))))
    }
    if depth < 2 and dice.random() < 0.3:
        policy["$or"] = [random_policy(dice, names, depth + 1) for _ in range(dice.randint(2, 3))]
    return policy


def random_attributes(dice: random.Random) -> dict[str, Attribute]:
    made: dict[str, Attribute] = {}
    for name, kind in ATTRIBUTES.items():
        if dice.random() < 0.2:
            continue
        if kind == "a number":
            made[name] = int(dice.choice(NUMBERS))
        elif kind == "text":
            made[name] = dice.choice(KINDS if name == "kind" else TEXTS)
        else:
            made[name] = dice.sample(TEXTS, dice.randint(1, 3))
    return made


def moto_matches(policy: dict[str, Any], attributes: dict[str, Attribute]) -> bool:
    """What moto's SNS would deliver: its own matcher over attributes as its server keeps them."""
    told = {
        name: {"Type": "String.Array", "Value": json.dumps(value)}
        if isinstance(value, list)
        else {"Type": "Number" if isinstance(value, int) else "String", "Value": value}
        for name, value in attributes.items()
    }
    return FilterPolicyMatcher(policy, None).matches(told, "")


def keys_of(policy: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    found: list[tuple[str, list[Any]]] = []
    for name, rules in policy.items():
        found += [each for inner in rules for each in keys_of(inner)] if name == "$or" else [(name, rules)]
    return found


def explained(policy: dict[str, Any], attributes: dict[str, Attribute]) -> str | None:
    """Why moto may differ here: what AWS's Developer Guide says, and moto does not do."""
    for name, rules in keys_of(policy):
        value = attributes.get(name)
        operators = {next(iter(rule)) if isinstance(rule, dict) else "=" for rule in rules}
        if isinstance(value, list) and operators - {"=", "exists"}:
            # "String value matching": each element of a String.Array is compared by itself. moto takes
            # the JSON of the array apart into characters, or does not look at it.
            return "elements of an array"
        if value is None and "exists" in operators and len(rules) > 1:
            # "Key matching", and OR among the rules of a key. moto gives up at the first rule that
            # wants an attribute which is not there.
            return "exists beside other rules"
        if value is not None and "equals-ignore-case" in operators:
            # "Equals-ignore-case matching": neither side's case counts. moto folds the message's only.
            return "the case of the policy"
    return None


def test_policies_at_random_are_evaluated_as_moto_does_or_as_aws_documents() -> None:
    dice = random.Random(20261122)
    compared = agreed = 0
    reasons: dict[str, int] = {}
    names = list(ATTRIBUTES)
    while compared < 3_000:
        policy = random_policy(dice, names)
        attributes = random_attributes(dice)
        reason = explained(policy, attributes)
        ours, theirs = matches(policy, attributes), moto_matches(policy, attributes)
        if reason is None or ours == theirs:
            compared += 1
            agreed += ours
            assert ours == theirs, (policy, attributes)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    assert 500 < agreed < 2_500  # both answers are common
    assert set(reasons) == {"elements of an array", "exists beside other rules", "the case of the policy"}


def test_what_we_take_moto_s_sns_takes_too() -> None:
    """And what it refuses for its limits, we refuse: the cases that are within its own reading of them."""
    dice = random.Random(20261123)
    backend = SNSBackend("us-east-1", "123456789012")
    names = list(ATTRIBUTES)
    taken = refused = 0
    for _ in range(2_000):
        policy = random_policy(dice, names, depth=2)  # moto counts the depth of `$or` as a factor
        try:
            check_filter(policy, ())
        except PolicyInvalid:
            refused += 1
            continue
        backend._validate_filter_policy(policy, "MessageAttributes")  # noqa: SLF001 # its only way in
        taken += 1
    assert taken > 1_500
    assert len(names) > MAX_KEYS
    with pytest.raises(SNSInvalidParameter):
        backend._validate_filter_policy({name: ["x"] for name in names}, "MessageAttributes")  # noqa: SLF001


def test_combinations_multiply_over_keys_and_add_over_alternatives() -> None:
    policy = {"key_a": ["1", "2", "3"], "key_b": ["1"], "key_c": ["1", "2"]}
    assert combinations(policy) == 6  # the example of the Developer Guide
    assert combinations({"a": ["1", "2"], "$or": [{"b": ["1", "2", "3"]}, {"c": ["1"]}]}) == 8
