"""Write the result of a demo to a file, and print it as a table for the README.

make demo_small | python examples/demo/record_results.py --command 'make demo_small' \
    --commit COMMIT tests/benchmarks/results/demo.json
make demo | python examples/demo/record_results.py --command 'make demo' \
    --commit COMMIT tests/benchmarks/results/handbook.json
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


def table_of_answers(protocol: dict[str, Any]) -> str:
    """Return the scores of the answers: a row for each method."""
    lines = ["| method | contains the answer | F1 | % of base | seconds |", "|---|--:|--:|--:|--:|"]
    for method, found in protocol["methods"].items():
        scores, errors = found["scores"], found["score_errors"]
        cells = [f"{scores[name]:.2f} ± {errors[name]:.2f}" for name in ("contains", "f1")]
        cells.append(f"{found['percent_of_base']:.1f} ± {found['standard_error']:.1f}")
        lines.append(f"| `{method}` | {' | '.join(cells)} | {found['seconds']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Read the last line of standard input, write the file, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", required=True, help="command that was run")
    parser.add_argument("--commit", required=True, help="commit that was measured")
    arguments = parser.parse_args()
    result = json.loads(sys.stdin.read().splitlines()[-1])
    record = {
        "command": arguments.command,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": arguments.commit,
        # With one protocol, its object is the whole result.
        "protocols": result.get("protocols") or {result["protocol"]: result},
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(result) if "protocols" in result else table_of_answers(result))


if __name__ == "__main__":
    main()
