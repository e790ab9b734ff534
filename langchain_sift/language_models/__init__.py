"""Parts of a call that the chat model and the text model share.

| file | task |
|---|---|
| `fine_tuned.py` | the fields and methods of both models |
| `answer.py`, `preparing.py` | one call: retrieve, train, answer; requests of coroutines |
| `call_settings.py`, `call_adapters.py` | the settings of a call, checked; its trained adapter |
| `modes.py`, `context.py` | use documents by mode; fit them into a prompt |
| `retrieval_chains.py` | chains that retrieve and answer |
| `batches.py`, `synchronous.py` | many prompts together; synchronous retrievers in coroutines |
| `sessions.py` | learn documents once, and answer many prompts |
| `follow_ups.py` | make the query of a retrieval from a conversation |
| `chat_reply.py`, `text_reply.py` | messages and generations, whole or in chunks |
| `token_logprobs.py`, `records.py` | log-probabilities in OpenAI's forms; metadata of an answer |
| `runs.py`, `identity.py`, `profiles.py` | LangChain's runs, cache keys and model profiles |
| `wrapped_models.py` | find the model in LangChain's wrappers |
| `vllm_training.py`, `vllm_errors.py` | adapters for a vLLM server; its errors |
| `server_addresses.py` | addresses and timeouts of a server |
| `chat_templates/` | turn messages and tools into a prompt |
| `structured_output/` | force and read tool calls and JSON |
| `objectives/` | turn documents into training material |
"""

from langchain_sift.errors import require

require("ttft", "torch", "transformers", "jinja2")
