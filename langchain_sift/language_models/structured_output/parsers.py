"""Parse answers as objects of a schema."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any, TypeGuard

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import (
    JsonOutputKeyToolsParser,
    JsonOutputParser,
    JsonOutputToolsParser,
    PydanticOutputParser,
    PydanticToolsParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableParallel, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, RootModel, ValidationError

from langchain_sift.checks import check_choice
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.structured_output.answer_formats import (
    as_response_format,
    read_response_format,
)
from langchain_sift.language_models.structured_output.schema_parts import only_objects

_METHODS = ("function_calling", "json_schema", "json_mode")


def structured_output(
    model: Any,  # a chat model, or one with arguments of its calls
    schema: dict[str, Any] | type,
    method: str,
    *,
    include_raw: bool,
    strict: bool | None = None,
    **kwargs: object,
) -> Runnable[LanguageModelInput, Any]:
    """Return a model whose answers are objects; see `with_structured_output` of the chat model.

    Raises:
        ArgumentError: If the method or an argument is unknown, or no decoder supports the schema.
    """
    check_choice("method", method, _METHODS)
    if kwargs:
        raise ArgumentError(f"unsupported arguments: {list(kwargs)}")
    shown = {"kwargs": {"method": method}, "schema": schema}
    if method == "function_calling":
        if _is_root(schema) and not only_objects(schema.model_json_schema()):
            raise ArgumentError(
                f"{schema.__name__!r} is a RootModel of other values than objects, and the "
                'arguments of a call are an object: use method="json_schema"'
            )
        bound: Runnable[LanguageModelInput, AIMessage] = model.bind_tools(
            [schema],
            tool_choice="any",
            strict=strict is not False,
            ls_structured_output_format=shown,
        )
    else:
        asked = as_response_format(schema, described=method == "json_schema")
        read_response_format(asked)  # raises errors now
        bound = model.bind(response_format=asked, ls_structured_output_format=shown)
    return _parsed(bound, _parser(schema, method), include_raw=include_raw)


def _parsed(
    model: Runnable[LanguageModelInput, AIMessage],
    parser: Runnable[AIMessage, Any],
    *,
    include_raw: bool,
) -> Runnable[LanguageModelInput, Any]:
    """Parse the answers of a model, or return "raw", "parsed" and "parsing_error"."""
    if not include_raw:
        return model | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    as_raw: Runnable[AIMessage, Any] = RunnableParallel(raw=RunnablePassthrough())
    # The model comes first: only the first step gets the arguments of a call.
    return model | as_raw | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _parser(schema: Any, method: str) -> Runnable[AIMessage, Any]:
    as_call = method == "function_calling"
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if as_call and is_class and not _is_root(schema):
        return _CallOfClass(tools=[schema], first_tool_only=True)
    if as_call:
        name = convert_to_openai_function(schema)["name"]
        if is_class:
            return _CallOfRoot(key_name=name, first_tool_only=True, root_class=schema)
        return _Call(key_name=name, first_tool_only=True)
    return _JsonOfClass(pydantic_object=schema) if is_class else _Json()


def _is_root(schema: Any) -> TypeGuard[type[RootModel[Any]]]:
    return isinstance(schema, type) and issubclass(schema, RootModel)


class _Complete:
    """Refuses an incomplete answer, which LangChain's parsers would repair."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            _check_complete(result[0], as_call=isinstance(self, JsonOutputToolsParser))
        parser: Any = super()
        return parser.parse_result(result, partial=partial)


class _Call(_Complete, JsonOutputKeyToolsParser):
    """Returns the arguments of the first call."""


class _CallOfRoot(_Call):
    """Returns the arguments of the first call as an object of a RootModel.

    LangChain's parser for classes passes them by name, which fails without any.
    """

    root_class: type[BaseModel]

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        arguments = super().parse_result(result, partial=partial)
        try:
            return None if arguments is None else self.root_class.model_validate(arguments)
        except ValidationError:
            if partial:
                return None
            raise


class _CallOfClass(_Complete, PydanticToolsParser):
    """Returns the arguments of the first call as an object of a class."""


class _Json(_Complete, JsonOutputParser):
    """Returns the JSON of the answer."""


class _JsonOfClass(_Complete, PydanticOutputParser[Any]):
    """Returns the JSON of the answer as an object of a class."""


def _check_complete(generation: Generation, *, as_call: bool) -> None:
    if not isinstance(generation, ChatGeneration) or not isinstance(generation.message, AIMessage):
        return
    message = generation.message
    try:
        if not as_call:
            json.loads(message.text)
        elif not message.tool_calls:
            raise ValueError("there is no valid call")
    except ValueError as error:
        tokens = message.usage_metadata["output_tokens"] if message.usage_metadata else "some"
        raise OutputParserException(
            f"the answer ended after {tokens} tokens, before it was complete: raise max_tokens, "
            f"shorten the prompt, or ask for a smaller schema ({error})",
            llm_output=message.text,
        ) from error
