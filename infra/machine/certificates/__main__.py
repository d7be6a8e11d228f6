"""Create certificates for mutual TLS between services on this machine.

Usage: `python -m infra.machine.certificates --into DIR`.
"""

import argparse
from pathlib import Path

from infra.machine.certificates.authority import certificate_names, issue_certificates


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m infra.machine.certificates", description=__doc__
    )
    parser.add_argument(
        "--into", type=Path, required=True, help="output folder; keep authority.key on this machine"
    )
    parser.add_argument(
        "--services",
        nargs="+",
        default=certificate_names(),
        help="names of services (default: %(default)s)",
    )
    parser.add_argument(
        "--days",
        type=float,
        default=30.0,
        help="lifetime of a certificate in days (default: %(default)g)",
    )
    options = parser.parse_args()
    written = issue_certificates(options.into, options.services, options.days)
    print(f"{options.into}: {', '.join(written) or 'nothing'} written")


if __name__ == "__main__":
    main()
