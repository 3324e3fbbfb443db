"""The documented schemas of ``--json``."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from .conftest import ROOT

SCHEMAS = ROOT / "docs" / "schemas"


def check(name: str, value: Any) -> None:
    """Raise unless `value` is as docs/schemas/NAME.json says."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)
