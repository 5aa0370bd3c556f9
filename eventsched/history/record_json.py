"""The JSON of a record, as the command line and gateways show it.

Owns: the names of the fields of stored records. Must not: do I/O. Read next: reader.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo


def named(value: Any) -> Any:
    """Return a value in which every record is a dict with the names of its fields.

    Stored records are arrays without names.
    """
    if isinstance(value, msgspec.Struct):
        tag = {value.__struct_config__.tag_field: value.__struct_config__.tag}
        fields = {
            field.encode_name: named(getattr(value, field.name))
            for field in _fields_of(type(value))
            if not _is_omitted(value, field)
        }
        return {key: name for key, name in tag.items() if key} | fields
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    return [named(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _fields_of(kind: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    """The fields of a struct. msgspec evaluates its annotations at each call, which takes 3 ms."""
    return msgspec.structs.fields(kind)


def _is_omitted(record: msgspec.Struct, field: FieldInfo) -> bool:
    """Whether msgspec omits the field because it has its default value."""
    if not record.__struct_config__.omit_defaults:
        return False
    value = getattr(record, field.name)
    return value is field.default or (value in ({}, []) and field.default_factory is not NODEFAULT)
