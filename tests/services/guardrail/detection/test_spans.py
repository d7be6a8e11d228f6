"""Detection of secrets and personal data in answers, and of similar harmless texts."""

import pytest

from services.guardrail.detection.spans import iban_holds, luhn_holds
from services.guardrail.guard import Guard


def shown(guard: Guard, text: str) -> str:
    return guard.judge_output("hi", "", text, True).text


@pytest.mark.parametrize(
    "text",
    [
        "Use Python 3.11.9 or 3.12.4, not 2.7.18.",
        "git clone git@github.com:acme/app.git",
        "On 2024-11-24 at 12:30:45 the sum was 1,234,567.89 euros.",
        "Pi is 3.14159265358979 and e is 2.718281828459045.",
        "The card number 4111 1111 1111 1112 fails its check.",
        "192.168.1.254 and 10.0.0.1 are private; ::1 is loopback.",
        "password = os.environ['PASSWORD']",
        "Your password is required.",
        "The impasse is resolved2day.",
        "export API_KEY=$MY_KEY",
        "The token limit is 4096 tokens.",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "Order 4155552671 has shipped.",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "key: value\nother-key: other-value",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "@alice and @bob met at 7.",
        "<img src=logo@2x.png>",
        "git remote add o https://user:$TOKEN@git.example.com/app.git",
        "ssh://git@git.example.org/app.git",
        "7 times 8 is 56.",
    ],
)
def test_lookalikes_of_secrets_and_personal_data_are_not_replaced(
    guard_once: Guard, text: str
) -> None:
    assert shown(guard_once, text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane@acme.com.", "Write to [e-mail address removed]."),
        ("Call (415) 555-2671 now", "Call [phone number removed] now"),
        ("Call +44 20 7946 0958!", "Call [phone number removed]!"),
        ("Pay with 4111-1111-1111-1111, ok", "Pay with [card number removed], ok"),
        ("in 2024 4111 1111 1111 1111 was used", "in 2024 [card number removed] was used"),
        ("IBAN DE89 3704 0044 0532 0130 00 is mine", "IBAN [IBAN removed] is mine"),
        ("SSN: 536-90-4399", "SSN: [social security number removed]"),
        ("key AKIAIOSFODNN7EXAMPLE leaked", "key [secret removed] leaked"),
        ("Password: hunter2222", "Password: [password removed]"),
        ("Mot de passe: hunter2222", "Mot de passe: [password removed]"),
        ("motdepasse=hunter2222", "motdepasse=[password removed]"),
        ("minhasenha: hunter2222", "minhasenha: [password removed]"),
        (
            "curl -H 'Authorization: Bearer abcd1234efgh5678ijkl'",
            "curl -H 'Authorization: Bearer [secret removed]'",
        ),
        ("Email:jane@acme.com", "Email:[e-mail address removed]"),
        ("[mail](mailto:jane@acme.com)", "[mail](mailto:[e-mail address removed])"),
        ("Schreib an rené@acme.com", "Schreib an [e-mail address removed]"),
        ("联系邮箱jane@acme.com。", "联系邮箱[e-mail address removed]。"),
        ("メールはjane@acme.comまで", "メールは[e-mail address removed]まで"),
        ("two: a@b.org,c@d.org", "two: [e-mail address removed],[e-mail address removed]"),
    ],
)
def test_replacement_names_the_removed_data(guard_once: Guard, text: str, expected: str) -> None:
    assert shown(guard_once, text) == expected


def test_check_digits_follow_the_standards() -> None:
    assert luhn_holds("4111111111111111")
    assert not luhn_holds("4111111111111112")
    assert iban_holds("GB82WEST12345698765432")
    assert not iban_holds("GB82WEST12345698765431")
