"""Filters: the filter policies of Amazon SNS over message attributes, checked and evaluated as SNS does.

What SNS documents (Developer Guide, "Subscription filter policies" and "Filter policy constraints") is
accepted, and nothing else: what only other services of AWS know, such as `wildcard`, SNS refuses. On top
of that a rule is refused that can never match an event of ours, since it is a slip of the pen.
"""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from tintype.model.errors import PolicyInvalid
from tintype.model.event import Kind
from tintype.model.event_attributes import MAX_NUMBER, Attribute

MAX_KEYS = 5
MAX_COMBINATIONS = 150
MAX_BYTES = 256 * 1024
MAX_DECIMALS = 5
"""Digits behind the point that SNS tells apart."""
MAX_DEPTH = 3
"""Of `$or` within `$or`."""
MAX_QUOTED = 60
MAX_SHOWN = 20
"""Mistakes that are told at once."""

OR = "$or"
OWN_KEY = "owner"
"""Always added by us: nobody hears of another owner's images."""


class AttributeKind(StrEnum):
    """What the values of an attribute are."""

    TEXT = "text"
    NUMBER = "a number"
    TEXTS = "a list of texts"


ATTRIBUTES: Mapping[str, AttributeKind] = {
    "kind": AttributeKind.TEXT,
    "ext": AttributeKind.TEXT,
    "content_type": AttributeKind.TEXT,
    "bytes": AttributeKind.NUMBER,
    "width": AttributeKind.NUMBER,
    "height": AttributeKind.NUMBER,
    "tags": AttributeKind.TEXTS,
}
"""What a filter can look at, beside the owner."""

_KINDS = [kind.value for kind in Kind]
_LOWER_CASE = {"kind", "ext", "content_type"}
_TEXT_OPERATORS = {"prefix", "suffix", "equals-ignore-case", "cidr"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_OPERATORS = _TEXT_OPERATORS | {"anything-but", "numeric", "exists"}
_LOWER_BOUNDS = {">", ">="}
_UPPER_BOUNDS = {"<", "<="}


# Evaluation


def matches(policy: Mapping[str, Any], attributes: Mapping[str, Attribute]) -> bool:
    """Tell whether SNS would deliver a message with these attributes to a subscription with this policy."""
    return next(_failing(policy, attributes, ""), None) is None


def failing(policy: Mapping[str, Any], attributes: Mapping[str, Attribute]) -> list[str]:
    """Return the keys of the policy that keep a message out; those within `$or` as `$or/0/ext`."""
    return list(_failing(policy, attributes, ""))


def _failing(policy: Mapping[str, Any], attributes: Mapping[str, Attribute], before: str) -> Iterator[str]:
    for key, rules in policy.items():
        if key == OR:
            yield from _failing_of_all(rules, attributes, f"{before}{OR}/")
        elif not any(_rule_holds(rule, attributes.get(key)) for rule in rules):
            yield before + key


def _failing_of_all(
    policies: Sequence[Mapping[str, Any]], attributes: Mapping[str, Attribute], before: str
) -> list[str]:
    """Return what fails in each of several policies; nothing where one of them matches."""
    failed = [list(_failing(each, attributes, f"{before}{at}/")) for at, each in enumerate(policies)]
    return [key for keys in failed for key in keys] if all(failed) else []


def _rule_holds(rule: object, value: Attribute | None) -> bool:
    """Tell whether one rule of a key's list holds for an attribute; None: the message has no such one.

    Of a list of texts one element is enough; for `anything-but` none of them may be unwanted (Developer
    Guide, "String value matching").
    """
    operator, operand = _operation(rule)
    if operator == "exists":
        return operand is (value is not None)
    if value is None:
        return False
    elements = value if isinstance(value, list) else [value]
    if operator == "anything-but":
        return not any(_is_unwanted(operand, element) for element in elements)
    return any(_holds(operator, operand, element) for element in elements)


def _operation(rule: object) -> tuple[str, Any]:
    if isinstance(rule, dict):
        ((operator, operand),) = cast("dict[str, Any]", rule).items()
        return operator, operand
    return "=", rule


def _is_unwanted(operand: object, element: str | int) -> bool:
    match operand:
        case {"prefix": str(prefix)}:
            return isinstance(element, str) and element.startswith(prefix)
        case list():
            return any(_equal(each, element) for each in cast("list[object]", operand))
        case _:
            return _equal(operand, element)


def _holds(operator: str, operand: Any, element: str | int) -> bool:  # noqa: ANN401 # JSON of any kind
    match operator:
        case "=":
            return _equal(operand, element)
        case "numeric":
            return not isinstance(element, str) and all(
                _compare(element, sign, bound)
                for sign, bound in zip(operand[::2], operand[1::2], strict=True)
            )
        case _:
            return isinstance(element, str) and _text_holds(operator, operand, element)


def _text_holds(operator: str, operand: str, text: str) -> bool:
    match operator:
        case "prefix":
            return text.startswith(operand)
        case "suffix":
            return text.endswith(operand)
        case "equals-ignore-case":
            return text.lower() == operand.lower()
        case _:
            return _is_within(text, operand)


def _equal(wanted: object, element: str | int) -> bool:
    """Compare as JSON does: `true` is no number, and no text is one."""
    return not isinstance(wanted, bool) and wanted == element


def _compare(element: float, sign: str, bound: float) -> bool:
    match sign:
        case "=":
            return element == bound
        case "<":
            return element < bound
        case "<=":
            return element <= bound
        case ">":
            return element > bound
        case _:
            return element >= bound


def _is_within(text: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(text) in ipaddress.ip_network(network)
    except ValueError:
        return False


# Checks


@dataclass(frozen=True, slots=True)
class _Mistake:
    pointer: str
    detail: str


def check_filter(wanted: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Raise `PolicyInvalid`, naming each key, unless SNS would take the filter and it can match something.

    The owner, and the kinds of events where some are named, become keys of the policy too, and count
    among its five.
    """
    mistakes = [*_mistakes(wanted, "/filter", 0), *_mistakes_of_kinds(wanted, kinds)]
    if not mistakes:
        mistakes = list(_excesses(wanted, kinds))
    if mistakes:
        told = [
            {"pointer": each.pointer, "code": "filter_policy_invalid", "detail": each.detail}
            for each in mistakes[:MAX_SHOWN]
        ]
        raise PolicyInvalid(mistakes[0].detail, details={"errors": told})


def _mistakes(policy: Mapping[str, Any], at: str, depth: int) -> Iterator[_Mistake]:
    for key, rules in policy.items():
        pointer = f"{at}/{_escaped(key)}"
        if key == OR:
            yield from _mistakes_of_or(rules, pointer, depth)
        elif key == OWN_KEY:
            yield _Mistake(pointer, "`owner` is not for a filter: you hear of your own images only.")
        elif (kind := ATTRIBUTES.get(key)) is None:
            yield _Mistake(
                pointer, f"{_named(key)} is no attribute of events. There are {', '.join(ATTRIBUTES)}."
            )
        elif not isinstance(rules, list) or not rules:
            yield _Mistake(pointer, f'`{key}` takes a list of rules that is not empty: {{"{key}": […]}}.')
        else:
            for number, rule in enumerate(cast("list[object]", rules)):
                wrong = _wrong_with(key, kind, rule)
                if wrong is not None:
                    yield _Mistake(f"{pointer}/{number}", f"`{key}`: {wrong}")


def _mistakes_of_or(policies: object, pointer: str, depth: int) -> Iterator[_Mistake]:
    """Yield what is wrong with `$or`, which to SNS is an ordinary name unless it has two objects or more."""
    alternatives = cast("list[object]", policies) if isinstance(policies, list) else []
    objects = [cast("dict[str, Any]", each) for each in alternatives if isinstance(each, dict) and each]
    if len(objects) < 2 or len(objects) < len(alternatives):  # noqa: PLR2004 # two, as SNS wants them
        yield _Mistake(pointer, "`$or` takes a list of two filters or more, none of them empty.")
    elif depth == MAX_DEPTH:
        yield _Mistake(pointer, f"`$or` stands within `$or` at most {MAX_DEPTH} deep.")
    else:
        for number, each in enumerate(objects):
            yield from _mistakes(each, f"{pointer}/{number}", depth + 1)


def _mistakes_of_kinds(wanted: Mapping[str, Any], kinds: Sequence[str]) -> Iterator[_Mistake]:
    if kinds and "kind" in wanted:
        yield _Mistake("/filter/kind", "Name the kinds of events in `kinds` or in the filter, not in both.")


def _excesses(wanted: Mapping[str, Any], kinds: Sequence[str]) -> Iterator[_Mistake]:
    """Yield which of SNS's limits a policy exceeds, which is right otherwise."""
    added = {OWN_KEY} | ({"kind"} if kinds else set[str]())
    keys = max(len(wanted.keys() | added), len(_names(wanted) | added))
    if keys > MAX_KEYS:
        yield _Mistake(
            "/filter",
            f"The filter has too many keys. SNS takes {MAX_KEYS}, and {' and '.join(sorted(added))} "
            f"{'is one' if len(added) == 1 else 'are two'} of them.",
        )
    if (count := combinations(wanted) * max(1, len(kinds))) > MAX_COMBINATIONS:
        yield _Mistake(
            "/filter",
            "The filter is too complex: the numbers of rules of its keys, and of kinds, multiply to "
            f"{count}; SNS takes {MAX_COMBINATIONS}.",
        )
    if len(json.dumps(wanted).encode()) > MAX_BYTES - 1024:  # room for what is added
        yield _Mistake("/filter", "The filter is longer than the 256 KB that SNS takes.")


def combinations(policy: Mapping[str, Any]) -> int:
    """Return how many combinations of rules a policy has, as SNS counts; alternatives of `$or` add up."""
    count = 1
    for key, rules in policy.items():
        count *= sum(combinations(each) for each in rules) if key == OR else len(rules)
    return count


def _names(policy: Mapping[str, Any]) -> set[str]:
    names = policy.keys() - {OR}
    for each in policy.get(OR, ()):
        names |= _names(each)
    return names


def _wrong_with(key: str, kind: AttributeKind, rule: object) -> str | None:
    """Return what is wrong with one rule."""
    if not isinstance(rule, dict):
        return _wrong_with_value(key, kind, rule)
    if len(cast("dict[str, Any]", rule)) != 1:
        return 'a rule is a value, or an object with one operator: {"prefix": "…"}.'
    return _wrong_with_operation(key, kind, cast("dict[str, Any]", rule))


def _wrong_with_operation(key: str, kind: AttributeKind, rule: dict[str, Any]) -> str | None:
    operator, operand = _operation(rule)
    match operator:
        case "exists":
            return None if isinstance(operand, bool) else "`exists` is true or false."
        case "numeric":
            return _wrong_with_range(kind, operand)
        case "anything-but":
            return _wrong_with_exclusion(key, kind, operand)
        case _ if operator in _TEXT_OPERATORS:
            return _wrong_with_text_operator(key, kind, operator, operand)
        case _:
            return f"{_named(operator)} is no operator of SNS. There are {', '.join(sorted(_OPERATORS))}."


def _wrong_with_value(key: str, kind: AttributeKind, value: object) -> str | None:
    if kind is AttributeKind.NUMBER:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return 'it is a number: write 100, or {"numeric": [">", 100]}.'
        return _wrong_with_number(value)
    if not isinstance(value, str):
        return f"it is {kind}, and {_named(value)} is none."
    return _wrong_with_text(value) or _wrong_with_case(key, value) or _wrong_with_kind(key, value)


def _wrong_with_text(value: str) -> str | None:
    if not value:
        return "a text in a rule is not empty: what is empty is no attribute; ask by `exists`."
    if _UNPRINTABLE.search(value):
        return "control characters, and halves of Unicode characters, are in no attribute."
    if '"' in value or "\\" in value:
        # Developer Guide, "Filter policy constraints": SNS wants these escaped twice, and servers that
        # speak its language do not. They are in no type or extension, and hardly in a tag.
        return "quotation marks and backslashes cannot be compared reliably by SNS; leave them out."
    return None


def _wrong_with_case(key: str, value: str) -> str | None:
    if key in _LOWER_CASE and value != value.lower():
        return f"it is in lower case everywhere: write {json.dumps(value.lower(), ensure_ascii=False)}."
    return None


def _wrong_with_kind(key: str, value: str) -> str | None:
    if key == "kind" and value not in _KINDS:
        return f"{_named(value)} is no kind of event. There are {', '.join(_KINDS)}."
    return None


def _wrong_with_number(value: float) -> str | None:
    if not -MAX_NUMBER <= value <= MAX_NUMBER:
        return f"SNS compares numbers from {-MAX_NUMBER} to {MAX_NUMBER}; larger ones count as {MAX_NUMBER}."
    if round(value, MAX_DECIMALS) != value:
        return f"SNS compares {MAX_DECIMALS} digits behind the point."
    return None


def _wrong_with_range(kind: AttributeKind, operand: object) -> str | None:
    if kind is not AttributeKind.NUMBER:
        return f"`numeric` compares numbers, and this is {kind}."
    if not isinstance(operand, list):
        return 'a range is a list: {"numeric": [">", 0, "<=", 150]}.'
    match cast("list[object]", operand):
        case ["=" | "<" | "<=" | ">" | ">=", float() | int() as bound] if not isinstance(bound, bool):
            return _wrong_with_number(bound)
        case [
            str(sign),
            float() | int() as low,
            str(other),
            float() | int() as high,
        ] if sign in _LOWER_BOUNDS and other in _UPPER_BOUNDS and True not in map(_is_bool, (low, high)):
            if low >= high:
                return "the lower bound of a range is below the upper one."
            return _wrong_with_number(low) or _wrong_with_number(high)
        case _:
            return 'a range is ["=", 5], ["<", 5], [">", 5] or [">", 0, "<=", 150], with `<=` and `>=` too.'


def _wrong_with_exclusion(key: str, kind: AttributeKind, operand: object) -> str | None:
    match operand:
        case {"prefix": str(prefix)} if len(cast("dict[str, Any]", operand)) == 1:
            return _wrong_with_text_operator(key, kind, "prefix", prefix)
        case dict():
            return 'SNS knows `anything-but` with values, and with {"prefix": "…"}.'
        case list():
            values = cast("list[object]", operand)
            if not values:
                return "`anything-but` takes one value at least."
            wrong = (_wrong_with_value(key, kind, each) for each in values)
            return next((each for each in wrong if each is not None), None)
        case _:
            return _wrong_with_value(key, kind, operand)


def _wrong_with_text_operator(key: str, kind: AttributeKind, operator: str, operand: object) -> str | None:
    if kind is AttributeKind.NUMBER:
        return f"`{operator}` compares texts, and this is a number."
    if not isinstance(operand, str):
        return f"`{operator}` takes a text."
    if operator == "cidr":
        return _wrong_with_network(operand)
    wrong = _wrong_with_text(operand)
    if wrong is None and operator != "equals-ignore-case":
        wrong = _wrong_with_case(key, operand)
    return wrong


def _wrong_with_network(operand: str) -> str | None:
    try:
        ipaddress.ip_network(operand)
    except ValueError:
        return '`cidr` takes a network: {"cidr": "10.0.0.0/24"}.'
    return None


def _named(value: object) -> str:
    """Return a value as a sentence quotes it, whatever somebody sent."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _escaped(key: str) -> str:
    """Return a key as part of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")
