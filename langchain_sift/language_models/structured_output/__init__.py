"""Force and read answers of a given form: tool calls, and JSON of a schema.

| file | task |
|---|---|
| `answer_rules.py` | what an answer may and must contain |
| `answer_formats.py`, `answer_grammars.py` | formats of answers; grammars of answers |
| `supported_schemas.py` | schemas that a decoder can hold an answer to |
| `schema_problems.py`, `schema_parts.py` | what no decoder can; the parts of a schema |
| `call_forms.py` | how tool calls begin, go on and end |
| `form_reader.py` | read calls that follow a grammar |
| `tool_calls.py`, `tool_call_formats.py` | calls that a model writes freely, in its own format |
| `parsers.py` | parse answers as objects of a schema |
"""
