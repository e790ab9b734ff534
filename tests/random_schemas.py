"""Make random JSON schemas, as applications write them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

NAMES = [
    "name",
    "größe",
    "价格",
    "first name",
    "a-b",
    "id",
    "π",
    'quoted "x"',
    "back\\slash",
    "empty",
]
WORDS = ["red", "grün", "蓝", "two words", "", "tab\t", "😀", '"', "\\"]
PATTERNS = ["^[a-z]{2,4}$", "^[A-Z][a-z]+( [A-Z][a-z]+)?$", "^\\d{3}-\\d{4}$", "^(ab|cd)+$", "x"]
FORMATS = ["date", "date-time", "time", "email", "uuid", "ipv4", "path"]

Schema = dict[str, Any]


def random_schema(rng: random.Random) -> Schema:
    """Return a schema of an object, at times with a definition that contains itself."""
    schema = _object(rng, 3)
    if rng.random() < 0.3:
        node = _object(rng, 1)
        node["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
        node["properties"]["more"] = {"type": "array", "items": {"$ref": "#/$defs/node"}}
        node["required"] = [*node["required"], *rng.sample(["next", "more"], rng.randint(0, 2))]
        schema["$defs"] = {"node": node}
        schema["properties"]["tree"] = {"$ref": "#/$defs/node"}
        schema["required"].append("tree")
    return schema


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema: Schema = {
        "type": "object",
        "title": "An object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
    }
    if rng.random() < 0.3:
        schema["additionalProperties"] = rng.choice([False, True, {"type": "integer"}])
    return schema


def _value(rng: random.Random, depth: int) -> Schema:
    simple = [_string, _number, _integer, _choice, _several_types]
    nested = [_array, _tuple, _union, _object, _map]
    make: Callable[..., Schema] = rng.choice(simple if depth <= 0 else [*simple, *nested])
    return make(rng, depth)


def _string(rng: random.Random, _: int) -> Schema:
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(FORMATS)}
    lowest = rng.randrange(8)
    bounds = {"minLength": lowest, "maxLength": lowest + rng.randrange(20)}
    return {"type": "string", **{name: bounds[name] for name in bounds if rng.random() < 0.5}}


def _number(rng: random.Random, _: int) -> Schema:
    lowest = round(rng.uniform(-50, 50), 2)
    bounds = {"minimum": lowest, "exclusiveMaximum": lowest + rng.choice([0.5, 7, 1000])}
    return {"type": "number", **{name: bounds[name] for name in bounds if rng.random() < 0.5}}


def _integer(rng: random.Random, _: int) -> Schema:
    lowest = rng.randint(-100, 100)
    bounds = {"minimum": lowest, "maximum": lowest + rng.choice([0, 9, 5000])}
    chosen = {name: bounds[name] for name in bounds if rng.random() < 0.6}
    if not chosen and rng.random() < 0.5:
        chosen = {"multipleOf": rng.choice([2, 5, 10])}
    return {"type": "integer", **chosen}


def _choice(rng: random.Random, _: int) -> Schema:
    values = [*WORDS, 1, -2.5, None, True, {"a": ["ü"]}, []]
    if rng.random() < 0.3:
        return {"const": rng.choice(values)}
    return {"enum": rng.sample(values, rng.randint(1, 4))}


def _several_types(rng: random.Random, _: int) -> Schema:
    return {"type": rng.sample(["string", "integer", "null", "boolean", "number"], 2)}


def _array(rng: random.Random, depth: int) -> Schema:
    fewest = rng.randrange(3)
    bounds = {"minItems": fewest, "maxItems": fewest + rng.randrange(3)}
    chosen = {name: bounds[name] for name in bounds if rng.random() < 0.6}
    return {"type": "array", "items": _value(rng, depth - 1), **chosen}


def _tuple(rng: random.Random, depth: int) -> Schema:
    items = [_value(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    size = {"minItems": len(items), "maxItems": len(items)}
    return {"type": "array", "prefixItems": items, **size}


def _union(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_value(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def _map(rng: random.Random, depth: int) -> Schema:
    return {"type": "object", "additionalProperties": _value(rng, depth - 1)}
