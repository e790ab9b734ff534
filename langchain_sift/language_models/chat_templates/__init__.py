"""Turn messages and tools into the prompt that a model's chat template writes.

| file | task |
|---|---|
| `turns.py`, `tools.py` | convert LangChain's messages and tools |
| `turn_forms.py` | adapt turns to what a template refuses or silently drops |
| `rendering.py` | render turns with the template |
| `template_arguments.py` | arguments such as `enable_thinking`, checked |
| `template_probes.py` | find out how a template shows tools and calls |
| `conversations.py` | settings of the answer to a conversation; earlier answers without reasoning |
"""
