"""`python -m infra.servers install` fetches the real servers; `up` runs all of them in this terminal until Ctrl-C."""

import sys

from infra.servers.errors import ServerError
from infra.servers.installation import install


def main() -> None:
    try:
        install(lambda text: print(f"==> {text}", flush=True))
    except ServerError as error:
        sys.exit(f"==> {error}")


if __name__ == "__main__":
    main()
