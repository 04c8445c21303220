"""Types of options: lists, JSON, points in time, log levels."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
    _Choice = click.Choice[str]
else:
    # They are generic since click 8.2 only.
    _ParamType, _Choice = click.ParamType, click.Choice

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


class CommaSeparatedList(_ParamType):
    """``a,b,c``."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        items = value.split(",") if isinstance(value, str) else value
        return [item.strip() for item in items if item.strip()]


class _Json(_ParamType):
    kind: type
    wanted: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value} is no {self.wanted}", param, ctx)
        return found


class JsonArray(_Json):
    """``[1, "two"]``."""

    name = "json array"
    kind = list
    wanted = 'JSON array: write it as [1, "two"]'


class JsonObject(_Json):
    """``{"one": 1}``."""

    name = "json object"
    kind = dict
    wanted = 'JSON object: write it as {"one": 1}'


class ISO8601DateTime(_ParamType):
    """``2036-01-31T23:59:59``, with a time zone or without."""

    name = "iso-8601"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        try:
            # Python 3.10 knows no Z.
            return datetime.datetime.fromisoformat(f"{value[:-1]}+00:00" if value.endswith("Z") else value)
        except ValueError:
            self.fail(f"{value!r} is no point in time: write it as 2036-01-31T23:59:59+00:00", param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A point in time, or seconds from now."""

    name = "iso-8601 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(_Choice):
    """A level by its name, in any case, or by its number."""

    def __init__(self) -> None:
        super().__init__(LEVELS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).upper()
        if text.isdecimal():
            return int(text)
        return getattr(logging, super().convert(text, param, ctx))


COMMA_SEPARATED_LIST = CommaSeparatedList()
JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
