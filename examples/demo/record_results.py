"""Write the result of the demo to a file, and print it as a table for the README.

make demo_small | \
    python examples/demo/record_results.py tests/benchmarks/results/demo.json --commit COMMIT
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def table(result: dict[str, Any]) -> str:
    """Return percent of base ± standard error: a row for each method, a column for each group."""
    protocols: dict[str, Any] = result["protocols"]
    groups = list(next(iter(protocols.values()))["groups"])
    lines = [
        f"| protocol | method | all | {' | '.join(groups)} | seconds | distinct documents |",
        f"|---|---|{'--:|' * (len(groups) + 3)}",
    ]
    for name, protocol in protocols.items():
        for method, total in protocol["methods"].items():
            parts = [total, *(protocol["groups"][group]["methods"][method] for group in groups)]
            cells = [f"{p['percent_of_base']:.1f} ± {p['standard_error']:.1f}" for p in parts]
            used = f"{total['distinct_documents']:.1f}"
            row = [name, f"`{method}`", *cells, f"{total['seconds']:.2f}", used]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the last line of standard input, write the file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--commit", required=True, help="commit that was measured")
    arguments = parser.parse_args()
    result = json.loads(sys.stdin.read().splitlines()[-1])
    record = {
        "command": "make demo_small",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        "protocols": result["protocols"],
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
