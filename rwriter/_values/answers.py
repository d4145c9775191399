"""Structs that the library answers with, and that a web framework may answer with in turn."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """Can be the return type of a FastAPI route or a field of a pydantic model, as a model of its fields would be."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> Any:
        # pydantic is there: it asks
        from pydantic_core import core_schema  # noqa: PLC0415
        from typing_extensions import TypedDict  # noqa: PLC0415

        names = cls.__struct_fields__
        hints = get_type_hints(cls)
        make: Any = TypedDict
        fields = handler.generate_schema(make(cls.__name__, {name: hints[name] for name in names}))
        from_fields = core_schema.no_info_after_validator_function(lambda given: cls(**given), fields)
        return core_schema.json_or_python_schema(
            json_schema=from_fields,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_fields]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda answer: {name: getattr(answer, name) for name in names}, return_schema=fields
            ),
        )
