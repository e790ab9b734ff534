"""Force and read answers of a given form: tool calls, and JSON of a schema.

| file | task |
|---|---|
| `answer_rules.py` | what an answer may and must contain |
| `answer_formats.py`, `answer_grammars.py` | grammars of schemas; grammars of answers |
| `call_forms.py` | how tool calls begin, go on and end |
| `form_reader.py` | read calls that follow a grammar |
| `tool_calls.py`, `tool_call_formats.py` | calls that a model writes freely, in its own format |
| `parsers.py` | parse answers as objects of a schema |
"""
