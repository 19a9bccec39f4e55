"""The API's OpenAPI 3.1 description, generated from the table of commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from millrace.control.table import Command
from millrace.version import __version__

_REFUSALS = {
    "400": "the request is invalid; the text says what to change",
    "401": "a token is needed, or the given one is not valid",
    "403": "not allowed", "404": "no such object, or no right to see it",
    "409": "refused in the current state: a name that is taken, a limit, a loop", "429": "too many wrong tokens",
    "503": "the change could not be saved to disk and was not made",
    "507": "the memory budget of the guest or client is used up; the text says for what",
}  # fmt: skip
_TEXT = {"type": "string"}
_REFUSAL = {
    "type": "object", "properties": {"error": _TEXT, "right": _TEXT, "guest": _TEXT}, "required": ["error"],
    "description": "With 403, `right` is the right that is lacking, and `guest` where; empty for outside all guests.",
}  # fmt: skip
_PATH_NAME = re.compile(r"\{(\w+)\}")


def describe(table: Mapping[str, Command], prefix: str) -> dict[str, Any]:
    """The OpenAPI document."""
    rows = list(table.values())
    kinds = [*(row.takes for row in rows), *(row.returns for row in rows)]
    shapes, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    answers = dict(zip((row.name for row in rows), shapes[len(rows) :], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for command in rows:
        operation = _operation(command, schemas[command.takes.__name__], answers[command.name])
        paths.setdefault(prefix + command.path, {})[command.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millrace", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas | {"Refusal": _REFUSAL},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(command: Command, schema: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Describe one command. Path parameters are not part of the body; a GET takes its arguments from the query."""
    in_path = _PATH_NAME.findall(command.path)
    properties = schema.get("properties", {})
    parameters = [{"name": n, "in": "path", "required": True, "schema": properties[n]} for n in in_path]
    rest = {name: shape for name, shape in properties.items() if name not in in_path}
    required = [name for name in schema.get("required", []) if name in rest]
    refusal = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    out: dict[str, Any] = {
        "operationId": command.name,
        "summary": command.summary,
        "parameters": parameters,
        "responses": {"200": {"description": "done", "content": {"application/json": {"schema": answer}}}}
        | {code: {"description": text} | refusal for code, text in _REFUSALS.items()},
    }
    if command.method == "GET":
        parameters += [
            {"name": n, "in": "query", "required": n in required, "schema": shape} for n, shape in rest.items()
        ]
    elif rest:
        body = {"type": "object", "properties": rest, "required": required}
        out["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
    return out
