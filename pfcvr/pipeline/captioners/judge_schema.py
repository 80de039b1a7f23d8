"""The part of JSON Schema that caption prompts may use: checked when a prompt is loaded, applied to every answer.

Servers enforce more of JSON Schema than this, and silently ignore what they do not know; a keyword that nobody here
could check is therefore refused. Patterns are those of RE2, which takes linear time: one that backtracks could hold up
a run for ever.
"""

from collections.abc import Iterator
from typing import Any

from pfcvr.errors import UsageError
from pfcvr.records import ATTRIBUTES, PARTS

KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "string": frozenset({"enum", "const", "minLength", "maxLength", "pattern"}),
}
REMARKS = frozenset({"type", "title", "description"})


def check_schema(schema: dict[str, Any], where: str) -> None:
    """Raise UsageError unless ``schema`` is an object with the string ``caption`` and at most ATTRIBUTES and ``parts``.

    ``parts`` is an object of strings named by PARTS. All objects are closed (``additionalProperties = false``).
    """
    for path, what in _schema_problems(schema, "json_schema"):
        raise UsageError(f"{where}: {path} {what}; correct the prompt file")
    properties = schema["properties"]
    if "caption" not in properties or "caption" not in schema.get("required", []):
        raise UsageError(f"{where}: json_schema has no required property 'caption'; add it, it holds the sentence")
    strangers = sorted(set(properties) - {*ATTRIBUTES, "parts", "caption"})
    strangers += sorted(set(properties.get("parts", {}).get("properties", {})) - set(PARTS))
    if strangers:
        raise UsageError(
            f"{where}: json_schema asks for '{strangers[0]}', which no record has a place for; known are "
            f"{', '.join(ATTRIBUTES)}, caption and, inside parts, {', '.join(PARTS)}"
        )
    for name, inner in properties.items():
        if inner["type"] != ("object" if name == "parts" else "string"):
            raise UsageError(f"{where}: json_schema.properties.{name} cannot be of type '{inner['type']}'; correct it")


def _schema_problems(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(schema, dict):
        yield path, "is no table"
        return
    kind = schema.get("type")
    if kind not in KEYWORDS:
        yield f"{path}.type", f"is {kind!r} and has to be 'object' or 'string'"
        return
    unknown = sorted(set(schema) - KEYWORDS[kind] - REMARKS)
    if unknown:
        yield path, f"has the unknown keyword '{unknown[0]}'; known here: {', '.join(sorted(KEYWORDS[kind]))}"
    elif kind == "object":
        yield from _object_problems(schema, path)
    else:
        yield from _string_problems(schema, path)


def _object_problems(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not properties:
        yield path, "has no properties"
    elif not isinstance(required, list) or not set(map(str, required)) <= set(properties):
        yield f"{path}.required", "has to list names of its properties"
    elif schema.get("additionalProperties") is not False:
        yield path, "needs additionalProperties = false, or a model may add anything"
    else:
        for name, inner in properties.items():
            yield from _schema_problems(inner, f"{path}.properties.{name}")


def _string_problems(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    choices = schema.get("enum", ["one"])
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        yield f"{path}.enum", "has to list texts"
    if not isinstance(schema.get("const", ""), str):
        yield f"{path}.const", "has to be a text"
    for name in ("minLength", "maxLength"):
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            yield f"{path}.{name}", "has to be a whole number from 0"
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str):
        yield f"{path}.pattern", "has to be a text"
        return
    try:
        has_match(pattern, "")
    except ValueError as error:
        why = str(error).removeprefix("Invalid regular expression: ")[:80]
        yield (
            f"{path}.pattern",
            f"is no regular expression of RE2, which knows no look-around or back references ({why})",
        )


def has_match(pattern: str, text: str) -> bool:
    """Whether ``pattern`` matches anywhere in ``text``, in time linear in it; raises ValueError for no RE2 pattern."""
    import pyarrow
    import pyarrow.compute as compute

    # A model may write half a surrogate pair, which is no text to RE2.
    whole = text.encode(errors="replace").decode()
    return bool(compute.match_substring_regex(pyarrow.scalar(whole, pyarrow.string()), pattern).as_py())


def answer_problem(schema: dict[str, Any], value: Any, path: str = "the answer") -> str | None:
    """What is wrong with the parsed JSON ``value`` under a schema that ``check_schema`` let pass; None for nothing."""
    if schema["type"] == "string":
        return _text_problem(schema, value, path)
    if not isinstance(value, dict):
        return f"{path} is no object"
    properties = schema["properties"]
    unasked = sorted(set(value) - set(properties))
    if unasked:
        return f"{path} has the field '{unasked[0][:40]}', which was not asked for"
    for name in schema.get("required", []):
        if name not in value:
            return f"{path} has no field '{name}'"
    problems = (answer_problem(properties[name], inner, name) for name, inner in value.items())
    return next((problem for problem in problems if problem is not None), None)


def _text_problem(schema: dict[str, Any], value: Any, path: str) -> str | None:
    if not isinstance(value, str):
        return f"{path} is no text"
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return f"{path} is '{value[:40]}', which is not one of the choices"
    if len(value) < schema.get("minLength", 0):
        return f"{path} has {len(value)} characters, fewer than {schema['minLength']}"
    if len(value) > schema.get("maxLength", len(value)):
        return f"{path} has {len(value)} characters, more than {schema['maxLength']}"
    if "pattern" in schema and not has_match(schema["pattern"], value):
        return f"{path} does not match the pattern {schema['pattern']}"
    return None
