"""Reasons of dead letters: records without a valid form or signature."""

from services.chassis.errors import DetailedError
from services.feedback.spool.log import Signature


class UndecodableError(DetailedError):
    """Record is undecodable for this version; the text gives the reason in constant words."""

    reason = "MALFORMED"


class UnverifiedError(UndecodableError):
    """Record was not written by a relay of this installation, as far as can be verified.

    `reason` is MISSING or WRONG for the signature, or PLAIN for texts without a seal.
    """


def require_acceptable(signature: Signature, accepts_unsigned: bool) -> None:
    """Require a signature, unless relays of earlier versions may have written the record.

    Raises:
        UnverifiedError: The signature is wrong, or missing and required.
    """
    if signature is Signature.WRONG or not accepts_unsigned:
        raise UnverifiedError(
            f"signature is {signature}", field="signature", reason=signature.upper()
        )


def require_sealed(sealed: bytes) -> None:
    """Require sealed texts: every version whose records are accepted unsigned has sealed them.

    Raises:
        UnverifiedError: The texts are plain.
    """
    if not sealed:
        raise UnverifiedError("texts are not sealed", field="sealed", reason="PLAIN")
