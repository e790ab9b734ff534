"""Test-time fine-tuning behind LangChain's chat and text models: one call, prompts, tool calls."""
