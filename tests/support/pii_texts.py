"""Labelled texts for the detection of personal data: `python -m tests.support.pii_texts`.

Writes tests/training/corpus/pii/labelled/{development,held_out}.jsonl, each line with text,
language, URL and spans `[start, end, kind]`. The two files share no template and no seed. The rules
were written with the first file; the second one measures them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import pii_values as values

FOLDER = Path(__file__).resolve().parents[1] / "training" / "corpus" / "pii" / "labelled"
SLOT = re.compile(r"\{(\w+)(\+?)(?::([\w-]+))?\}")
# language, host or "", template. A slot in capitals is labelled with its kind.
DEVELOPMENT = """
en||Please write to {EMAIL} if you have any questions about the schedule.
en||Contact: {EMAIL}, {EMAIL} or by phone at {PHONE:US}.
en||Author: Anna Keller <{EMAIL}>
en||For support, send an e-mail to mailto:{EMAIL}?subject=help or visit our site.
en||Reach me on {PHONE:US} after six, or on {PHONE+:GB} when I travel.
en|shop.example.co.uk|Call our office on {PHONE:GB} between nine and five.
en||Tel: {PHONE+:US} Fax: {PHONE+:US}
en|example.com.au|Our Sydney team answers {PHONE:AU} every weekday.
en||My card number is {CARD}, expires 09/29.
en||I paid with {CARD} and never got a receipt.
en||Please wire the deposit to {IBAN:GB}.
en||Routing number: {RTN}, account number: {ACCT}.
en||Bank details: sort code {SORT}, account {ACCT8}.
en||Her SSN is {ID:US} and she was born in Ohio.
en||social security number: {ID:US}
en||National Insurance number {ID:GB} must appear on the form.
en|example.ca|My SIN is {ID:CA}, please update the payroll.
en|example.in|Aadhaar: {ID:IN}
en||The login came from {IP} at midnight.
en||Server address {IP}:8080 answered in 20 ms.
en||ping {IP6} works, but the web page doesn't load.
en||Failed password for root from {IP} port 52114 ssh2
de||Sie erreichen mich unter {EMAIL} oder {PHONE:DE}.
de||Telefon: {PHONE:DE}, Mobil: {PHONE+:DE}
de||Bitte überweisen Sie den Betrag auf {IBAN:DE}.
de||Meine Steuer-ID lautet {ID:DE}.
de|beispiel.ch|AHV-Nummer {ID:CH}, Konto {IBAN:CH}.
de||Kontonummer {ACCT}, BLZ 37040044, Bank in Köln.
fr||Écrivez à {EMAIL} ou appelez le {PHONE:FR}.
fr||Numéro de sécurité sociale : {ID:FR}
fr||Voici mon IBAN : {IBAN:FR}
es||Mi correo es {EMAIL} y mi teléfono es {PHONE:ES}.
es||DNI {ID:ES}, con domicilio en Madrid.
es||Transferencia a la cuenta {IBAN:ES}
it||Codice fiscale: {ID:IT}
it||Chiamami al {PHONE:IT} o scrivi a {EMAIL}.
nl||Mijn BSN is {ID:NL} en mijn rekening is {IBAN:NL}.
nl||Bel ons: {PHONE:NL}
pl||PESEL: {ID:PL}, e-mail: {EMAIL}
pt|exemplo.com.br|CPF {ID:BR}, telefone {PHONE:BR}.
zh||身份证号:{ID:CN},手机:{PHONE:CN}
zh||联系邮箱:{EMAIL}
ja||電話番号は{PHONE:JP}です。
sv||Mitt personnummer är {ID:SE}.
fi||Henkilötunnus {ID:FI}
no||Fødselsnummer: {ID:NO}
da||CPR-nummer {ID:DK}
ko||전화: {PHONE:KR}, 주민등록번호 {ID:KR}
en||Upgrade from {version} to {version} before {date}.
en||The match ended {score} after {time} of play, the best result since {date}.
en||Order {order} was shipped on {date} with tracking number {tracking}.
en||ISBN {isbn}, published {date}, {n} pages.
en||commit {hash} fixes the crash at {time}
en||Clone it with git clone git@github.com:owner/project.git and run make.
en||The decorator @app.route registers a view; @property makes it read-only.
en||A {size} matrix needs {sum} bytes.
en||See section {section} of the manual and chapter {section}.
en||The total is {sum}, paid in {range} instalments.
en||request id {uuid} took {decimals} seconds at {stamp}
en||OID {oid} identifies the enterprise; DOI {doi}.
en||The router listens on {lan} by default.
en||MAC address {mac}, firmware {version}
en||Call std::vector<int>::push_back, then a[1::2] and x::y.
en||The season of {range} had {n} games; ratio {fraction}.
en||User-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0.0.0 Safari/537.36
en||npm install lodash@4.17.21 and logo@2x.png
de||Version {version} vom {date}, Artikelnummer {order}, Preis {sum}.
de||Das Spiel endete {score}, Anpfiff {time}, am {date}.
fr||Version {version} du {date}, commande {order}.
fr||Le total est de {sum}, section {section}.
es||Versión {version}, pedido {order}, {date}.
zh||版本 {version},订单号 {order},{date} {time}
ja||バージョン {version}、{date} {time}
en||Model number {order}, serial number {order}, lot {range}.
en||Population: {sum}; area {decimals}; founded {date}.
en||{"name": "Omar", "phone": "{PHONE+:US}", "mail": "{EMAIL}"}
en||omar,{EMAIL},{PHONE+:GB},{ID:US}
en||{IP} - - [29/Nov/2026:04:05:06 +0000] "GET / HTTP/1.1" 200 5120 from={IP}
en||src={IP} dst={lan} sport=52114
en||| Anna Keller | {EMAIL} | {PHONE:US} | {date} |
en||**Call {PHONE:US}** or [write](mailto:{EMAIL})
en||card={CARD}&exp=0929
en||write to {DISGUISED} about it
en||@@ -12,7 +12,9 @@ and then +0100, -0800, 1e-10, 0x7fffffff, 0777
en||ISSN {n}-1234, ORCID 0000-0002-1825-0097, ZIP 94103-1234
en||licence key 1234-5678-9012-3456, 4-4-4-4 groups
en||OpenSSL 1.1.1.1 and Firefox/115.0.1.2, kernel 5.10.0.13
en||02:15:03 up 12 days, load average: 0.42, 1.07, 2.96
en||| 12 345 | 67 890 | 11 213 | 14 151 | 61 718 |
en||The numbers drawn were 05 12 23 34 45 and 7.
en||from 20260101-20261231, ids 1000000-1999999
de||Liefernummer 0301234567, PLZ 10115, Az. 12 O 345/26
fr||Le SIRET 732 829 320 00074 et le code postal 75001
en||int x = 2147483647; long y = 9223372036854775807L; float z = 1.17549435e-38f;
en||call 1-800-FLOWERS or press 1234567890#
en||https://shop.example.com/item/4111111111111111/order-2025550123?id=301234567
"""
HELD_OUT = """
en||The committee can be reached through {EMAIL}; replies take a week.
en||cc'd {EMAIL} and {EMAIL} on the thread
en||"{EMAIL}" bounced again, is the mailbox full?
en||Maintainer: Luis Garcia ({EMAIL})
en||Just text me: {PHONE:US}. Don't ring the landline {PHONE:US}!
en||Emergency contact: Noor Smith, {PHONE+:DE}
en||Customer hotline {PHONE+:US}, free of charge.
en|theatre.example.uk|Box office {PHONE:GB}, open daily.
en||From abroad dial {PHONE+:FR}; inside the country it is shorter.
en||Visa {CARD} was declined twice yesterday.
en||The stolen numbers included {CARD} and {CARD}.
en||Beneficiary account {IBAN:IE}, reference INV-2026-113.
en||Direct deposit: ABA {RTN}, checking account no. {ACCT}
en||Pay by bank transfer to sort code {SORT}, account number {ACCT8}, name J Smith.
en||Applicant's Social Security No. {ID:US}; spouse: {ID:US}.
en||NI number: {ID:GB}
en||Employee social insurance number {ID:CA} on file.
en||UIDAI issued Aadhaar number {ID:IN} to the applicant.
en|example.co.za|ID number: {ID:ZA}
en||Blocked {IP} after 40 attempts; also {IP6}.
en||http://{IP}/admin was open to everyone
en||The client's IP address is {IP}.
de||Rückfragen bitte an {EMAIL}.
de||Ruf mich an: {PHONE+:DE}, abends {PHONE:DE}
de||IBAN: {IBAN:DE}, Verwendungszweck Miete
de||Die steuerliche Identifikationsnummer {ID:DE} steht auf dem Bescheid.
de|firma.example.at|Zahlung auf {IBAN:AT} erbeten, Rückfragen {PHONE+:AT}.
fr||Merci de me joindre au {PHONE:FR} ou par courriel : {EMAIL}.
fr||N° INSEE {ID:FR}
fr|exemple.be|Numéro national {ID:BE}, compte {IBAN:BE}
es||Llámame al {PHONE+:ES} por la tarde.
es||NIE: {ID:ES-NIE}
es|ejemplo.mx|CURP {ID:MX}
es|ejemplo.cl|RUT {ID:CL}
it||Il bonifico va fatto su {IBAN:IT}.
it||C.F. {ID:IT}, tel. {PHONE:IT}
nl||Burgerservicenummer: {ID:NL}
nl||Stuur een mail naar {EMAIL} of bel {PHONE+:NL}.
pl||Numer PESEL {ID:PL}, telefon {PHONE:PL}.
pl||Konto: {IBAN:PL}
pt||O meu NIF é {ID:PT} e o meu email é {EMAIL}.
pt||CPF: {ID:BR}
tr||T.C. kimlik no: {ID:TR}, IBAN {IBAN:TR}
ro||CNP {ID:RO}
cs||Rodné číslo {ID:CZ}
zh||我的身份证是{ID:CN},请打电话{PHONE+:CN}。
ja||お問い合わせは{EMAIL}まで、TEL {PHONE:JP}
ko||이메일 {EMAIL}, 휴대폰 {PHONE:KR}
sv||Ring mig på {PHONE:SE}, personnummer {ID:SE}
no||Kontonummer {IBAN:NO}, fødselsnummer {ID:NO}
da||Mit CPR-nummer er {ID:DK}, ring {PHONE+:DK}
en||Release {version} ({date}) supersedes {version}.
en||Kick-off {time}, final score {score}, attendance {sum}.
en||Your parcel {tracking} left the depot at {time} on {date}.
en||invoice #{order} for {sum} is due {date}
en||{isbn} is the ISBN of the paperback; the hardcover has {isbn}.
en||sha256 {hash}, build {version}
en||Fetch ssh://git@gitlab.example.org/group/repo.git, or rsync deploy@host.example.org:/srv/data.
en||Use @pytest.fixture and @dataclass(frozen=True).
en||images of {size} and {size} pixels
en||As defined in {section}, the limit of {section} applies.
en||epoch {stamp}, offset {n}, id {uuid}
en||coordinates {decimals}; error {fraction}
en||snmpget -v2c {oid}
en||The container gets {lan}, the host {lan}.
en||link/ether {mac} brd ff:ff:ff:ff:ff:ff
en||years {range}, pages {range}, {fraction} votes
en||part no. {order}, catalogue {order}, see doi:{doi}
en||elapsed {time}, ETA {time}, started {stamp}
de||Bestellnummer {order}, Rechnung vom {date} über {sum}
de||Fassung {version}, Abschnitt {section}, Seite {n}
fr||Le score de {score} à {time}, devant {sum} spectateurs.
fr||Facture {order} du {date}
es||La versión {version} salió el {date}; el marcador fue {score}.
it||La versione {version} del {date}, ordine {order}
pt||Versão {version}, pedido {order}, total {sum}
pl||Wersja {version} z dnia {date}, zamówienie {order}
ru||Версия {version} от {date}, заказ {order}, счёт {score}
zh||比分 {score},时间 {time},编号 {order}
en||email: {EMAIL}\\tphone: {PHONE:US}\\tssn: {ID:US}
en||{"contact": {"tel": "{PHONE+:FR}", "fax": "{PHONE+:FR}"}}
en||sshd[812]: Accepted publickey for deploy from {IP} port 40022 ssh2: RSA SHA256:{hash}
en||X-Forwarded-For: {IP}, {lan}
en||- Noor Silva, {PHONE+:DE} (do not use before 08:00)
en||pan: "{CARD}", cvv: "123"
en||{DISGUISED}, no attachments please
en||<a href="mailto:{EMAIL}">{EMAIL}</a>
en||tz=+01:00, range +48.8566+002.3522, sum += 12345678
en||ISRC USRC17607839, IMEI 490154203237518, VIN 1HGCM82633A004352
en||EAN 4006381333931, UPC 036000291452, GTIN 04006381333931
en||Python 3.11.0.1 needs glibc 2.31.0.9; app/2.10.30.45
en||drwxr-xr-x 2 1000 1000 4096 2026-11-29 04:05 20261129_040506.123456
en||1 234 567 890 bytes in 12 345 678 blocks of 4 096
en||rows 100-200, 300-400, 500-600; seats 12-14-16
en||PMC1234567, PMID 31452104, arXiv:2101.00001v2
de||Aktenzeichen 030/123/45, Kundennummer 0171234567, Zählerstand 0123456
fr||Lot 01 02 03 04 05 06, série 11-22-33-44
en||0.1428571428571428 1.4142135623730951 299792458 6.02214076e23
en||const KEY = "0123456789abcdef0123456789abcdef"; // 16 bytes, 1010101010
en||GET /api/v1/users/2025550123/orders/4242424242424242 HTTP/1.1
"""
KINDS = {
    "EMAIL": "email",
    "DISGUISED": "email",
    "PHONE": "phone",
    "IBAN": "iban",
    "RTN": "bank account",
    "ACCT": "bank account",
    "ACCT8": "bank account",
    "SORT": "bank account",
    "CARD": "card",
    "IP": "ip address",
    "IP6": "ip address",
    "ID": "national id",
}
VARIANTS = 5
PARTS = {"development": (DEVELOPMENT, 20), "held_out": (HELD_OUT, 71)}


def value_of(name: str, abroad: bool, country: str, rng: random.Random) -> str:
    """Return a value for a slot of a template."""
    match name:
        case "EMAIL":
            return values.mail(rng)
        case "DISGUISED":
            at, dot = rng.choice(((" [at] ", " [dot] "), ("(at)", "."), (" (at) ", " (dot) ")))
            return values.mail(rng).replace("@", at).replace(".", dot)
        case "PHONE":
            return values.phone(country, rng, abroad)
        case "IBAN":
            return values.account(country, rng)
        case "CARD":
            return values.card(rng)
        case "ID":
            return values.national_id(country, rng)
        case "RTN":
            return rng.choice(("021000021", "011401533", "091000019"))
        case "ACCT" | "ACCT8":
            return values.fill("########" if name == "ACCT8" else "##########", rng)
        case "SORT":
            return values.fill("##-##-##", rng)
        case "IP":
            network = rng.choice(("192.0.2.", "198.51.100.", "203.0.113."))
            return network + str(rng.randrange(1, 255))
        case "IP6":
            return rng.choice(("2001:db8::{:x}", "2001:db8:{:x}:1::17")).format(rng.randrange(4096))
        case "n":
            return str(rng.randrange(2, 900))
    return values.look_alike(name, rng)


def texts(templates: str, seed: int) -> Iterator[dict[str, object]]:
    """Yield labelled texts, several for each template."""
    rng = random.Random(seed)
    for line in templates.strip().splitlines():
        language, host, template = line.split("|", 2)
        for _ in range(VARIANTS):
            text, spans, end = "", [], 0
            for slot in SLOT.finditer(template):
                text += template[end : slot.start()]
                value = value_of(slot[1], bool(slot[2]), slot[3] or "", rng)
                if slot[1] in KINDS:
                    spans.append([len(text), len(text) + len(value), KINDS[slot[1]]])
                text, end = text + value, slot.end()
            text += template[end:]
            url = f"https://{host}/" if host else ""
            yield {"text": text, "language": language, "url": url, "spans": spans}


def main() -> None:
    """Write both files of labelled texts."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (templates, seed) in PARTS.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in texts(templates, seed)]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
