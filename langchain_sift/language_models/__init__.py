"""Parts of a call that the chat model and the text model share."""

from langchain_sift.errors import require

require("ttft", "torch", "transformers", "jinja2")
