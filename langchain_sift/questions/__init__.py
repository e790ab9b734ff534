"""Read questions, choices and answers in the forms of common datasets.

| file | task |
|---|---|
| `question.py` | a question with its choices and answers, checked |
| `field_names.py` | names of the fields in common datasets |
| `question_fields.py` | give the fields of a question the same names |
| `choice_forms.py`, `answer_objects.py` | other forms of choices and answers |
| `literals.py` | lists and objects that are written as text |
| `question_sets.py` | what the questions of a file show together |
| `question_lists.py` | objects that hold several questions |
| `learned_examples.py` | record which questions an adapter has learned |
"""
