"""Diagnose a store: copies, similarities, languages, lengths, faulty vectors, and advice on SIFT.

| file | does |
|---|---|
| `examination.py` | read the store and measure everything: `diagnose` |
| `diagnosis.py` | report the state of a store |
| `row_counts.py` | count rows, copies and faulty vectors |
| `similarities.py` | measure cosines of random pairs and of nearest neighbours |
| `languages.py` | detect languages |
| `lengths.py` | measure lengths against the limit of the embeddings |
| `advice.py` | name the faults with their cures, and advise on SIFT |
"""

from langchain_sift.diagnosis.diagnosis import Diagnosis
from langchain_sift.diagnosis.examination import diagnose

__all__ = ["Diagnosis", "diagnose"]
