"""Turn documents into training material, by objective.

| file | task |
|---|---|
| `training_material.py` | the material of any objective |
| `conversation_documents.py` | "answer": read conversations |
| `marked_answers.py` | "answer": mark the tokens of answers |
| `teaching.py` | "distill": plan what the base model teaches |
"""
