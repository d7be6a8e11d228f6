"""Commands `identity create|list|retire|token` of `python -m services.gateway`.

They manage the signing keys of services, training and operators for calls of other services.
"""

import argparse
import sys
from pathlib import Path

from services.chassis.identity import Caller
from services.chassis.identity_keys import (
    IdentityKeyError,
    create_key_pair,
    read_public_keys,
    retire_keys,
)
from services.chassis.service_identity import IDENTITY_KEY, TokenSigner


def add_identity_commands(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `identity` to the parser."""
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser(
        "create", help="create a private key, and add its public key to the folder"
    )
    listing = commands.add_parser("list", help="callers and key ids in the folder of public keys")
    retire = commands.add_parser(
        "retire", help="remove the caller's public keys other than that of its private key"
    )
    token = commands.add_parser("token", help="print the metadata of one call, valid for a minute")
    for command in (create, retire, token):
        command.add_argument("--caller", required=True, help="name of the service, or operator")
        command.add_argument("--private", type=Path, required=True, help="file of the private key")
    for command in (create, listing, retire):
        command.add_argument("--public", type=Path, required=True, help="folder of public keys")
    token.add_argument("--method", required=True, help="/package.Service/Method")
    token.add_argument("--tenant", default="", help="tenant on whose behalf the call is made")
    token.add_argument("--user", default="", help="user on whose behalf the call is made")


def run_identity_command(options: argparse.Namespace) -> int:
    """Run a subcommand of `identity`. Returns the exit status."""
    try:
        match options.command:
            case "create":
                print(create_key_pair(options.caller, options.private, options.public))
            case "list":
                for key_id, key in read_public_keys(options.public).items():
                    print(f"{key.caller:<12}  {key_id}  {key.file.name}")
            case "retire":
                for key_id in retire_keys(options.caller, options.private, options.public):
                    print(f"retired {key_id}")
            case _:
                caller = Caller(options.tenant, options.user)
                signer = TokenSigner(options.caller, options.private)
                print(f"{IDENTITY_KEY}: {signer.token(options.method, caller)}")
    except IdentityKeyError as error:
        limit = f"; allowed: {error.limit}" if error.limit else ""
        print(f"{error}{limit}", file=sys.stderr)
        return 1
    return 0
