"""Start the command line: `python -m langchain_sift`, and the `langchain-sift` command."""

from __future__ import annotations

import logging
import sys

from langchain_sift.errors import MissingExtraError


def main() -> None:
    """Run the command line, or name the extra that it needs."""
    try:
        from langchain_sift.cli import app  # noqa: PLC0415 - needs the extra [compare]
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # the imports take a second
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    # At its import, bitsandbytes asks for a package of faster kernels, which is no fault to report.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    app()


if __name__ == "__main__":
    main()
