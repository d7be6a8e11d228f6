"""Words before a number that say what the number is, in the languages of the rules.

Most numbers have a weak check digit or none, so that nine of ten telephone numbers, order numbers
and identifiers look alike. The nearest label before the number decides.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LEFT_CHARACTERS = 48
MAX_WORDS = 6
PHONE, CARD, BANK, ACCOUNT, IP, ID, OTHER = "phone card bank account ip id other".split()
ROUTING, SORT_CODE = "routing", "sort code"
# A star ends a prefix. Accents are removed. "id:XX" is the identifier of a country.
WORDS = {
    PHONE: """tel telefon* telephon* telefoon* phone* mobile* mobil movil cell cellphone celular
        cellulare handy* fax telefax call calling dial ring text sms whatsapp hotline landline
        anruf* rufnummer ruf rufen portable appelez appeler joindre fixe llama* llame* fijo chiama*
        chiamami bel bellen mobiel gsm komork* zadzwon* ringa puhelin* puh cep тел телефон*
        моб звоните mob telf tlf hp τηλ τηλεφων*""",
    CARD: """card cards visa mastercard amex discover maestro kreditkarte* kartennummer karte carte
        tarjeta carta cartao karta kort kaart kredi credit debit""",
    ROUTING: "routing aba",
    SORT_CODE: "sort_code",
    BANK: """kontonummer* kontonr rekeningnummer* bank_account cuenta_bancaria conto_corrente
        konto_bankowe compte_bancaire banka_hesap""",
    ACCOUNT: """account accounts acct acc konto compte cuenta conto conta rachunek a_c""",
    IP: """ip ips ipv4 ipv6 ping host hosts server servers addr adresse_ip dns client clients peer
        ip_address ip_adresse""",
    ID: """id_number id_no identity_number national_id identification_number personal_id
        identity_card id_card""",
    "id:US": "ssn ssns social_security itin tax_id",
    "id:GB": "nino ni_number ni_no national_insurance",
    "id:CA": "sin nas social_insurance assurance_sociale",
    "id:AU": "tfn tax_file",
    "id:IN": "aadhaar aadhar uidai pan",
    "id:DE": """steuer_id steuerid idnr steueridentifikationsnummer steuer_idnr
        steuerliche_identifikationsnummer identifikationsnummer""",
    "id:AT": "svnr sozialversicherungsnummer vsnr",
    "id:CH": "ahv ahv_nummer avs",
    "id:FR": "securite_sociale insee nir nss secu",
    "id:BE": "rijksregisternummer numero_national registre_national insz niss",
    "id:ES": "dni nie nif",
    "id:PT": "nif contribuinte",
    "id:IT": "codice_fiscale c_f cf",
    "id:NL": "bsn burgerservicenummer sofinummer",
    "id:PL": "pesel",
    "id:BR": "cpf",
    "id:MX": "curp",
    "id:CL": "rut run",
    "id:AR": "cuit cuil",
    "id:SE": "personnummer* samordningsnummer",
    "id:NO": "fødselsnummer* fodselsnummer* personnummer*",
    "id:DK": "cpr cpr_nummer cpr_nr",
    "id:FI": "henkilotunnus* hetu",
    "id:EE": "isikukood",
    "id:LT": "asmens_kodas",
    "id:RO": "cnp cod_numeric",
    "id:BG": "egn егн",
    "id:CZ": "rodne_cislo rc",
    "id:SK": "rodne_cislo rc",
    "id:GR": "amka αμκα",
    "id:TR": "kimlik tckn tc_kimlik turkish_id",
    "id:IL": "teudat_zehut",
    "id:ZA": "sa_id rsa_id african_id",
    "id:KR": "rrn",
    "id:CN": "",
    "id:IE": "pps ppsn",
    "id:HR": "oib",
    OTHER: """order orders bestell* bestellung* invoice* rechnung* tracking parcel isbn issn ean
        gtin sku serial part model version* ver rel release build firmware section sec
        chapter figure far dfars clause fig table page pages ticket case ref reference
        item items artikel* product produkt* commit hash sha sha1 sha256 md5 uuid score
        ratio doi arxiv pmid patent rfc cve zip plz imei imsi vin lot batch timestamp
        epoch pid port id ids request bug issue catalogue catalog year years since
        abschnitt kapitel seite fassung article commande facture pedido factura seccion
        capitulo ordine fattura sezione zamowienie faktura wersja версия заказ
        numero_de_serie oid snmp code key token offset coordinates latitude longitude
        total price preis sum size bytes population area revision rev step loss seed
        upgrade* update* blz bankleitzahl bic swift""",
}
# Digits and letters of scripts with spaces between words (Latin to Armenian), for the boundaries of
# a number. Chinese and Japanese characters stand directly before and after numbers.
WORD_CHARACTERS = r"0-9A-Za-z_\u00c0-\u058f"
# After the first character of a number, where the search for this character is fast: no letters,
# digits or decimals before it. And the same after its last character.
NOT_INSIDE = rf"(?<![{WORD_CHARACTERS}.].)(?<![{WORD_CHARACTERS}][-/].)"
# A comma begins decimals or a group of thousands, or separates columns.
NOT_CONTINUED = rf"(?![{WORD_CHARACTERS}]|[./-][{WORD_CHARACTERS}]|,\d{{1,3}}(?![\d-]))"
# Scripts without spaces between words: a label anywhere in the last characters counts.
UNSPACED = {
    PHONE: "电话 電話 手机 手機 联系方式 携帯 ファックス 传真 傳真 전화 휴대폰 연락처 핸드폰 팩스",
    CARD: "银行卡 信用卡 卡号 卡號 カード番号 카드번호",
    BANK: "银行账号 账号 帳號 口座番号 口座 계좌번호 계좌",
    "id:CN": "身份证",
    "id:JP": "マイナンバー 個人番号",
    "id:KR": "주민등록번호 주민번호",
    "id:TW": "身分證",
    OTHER: "版本 订单 訂單 编号 編號 比分 时间 注文番号 バージョン 주문 버전 邮编 郵便番号",
}
UNSPACED_CHARACTERS = 12
SIGNS = "☎☏✆📞📱℡"
WORD = re.compile(r"[^\W\d_]+\d?")
# Also without its beginning, because the characters before a number are cut.
PLACEHOLDER = re.compile(r"<?[A-Z_]{2,}_\d+>")


def _table() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], tuple[int, ...]]:
    whole: dict[str, tuple[str, ...]] = {}
    prefixes: dict[str, tuple[str, ...]] = {}
    for label, words in WORDS.items():
        for word in words.split():
            table = prefixes if word.endswith("*") else whole
            key = _plain(word.rstrip("*")).replace("_", " ")
            table[key] = (*table.get(key, ()), label)
    return whole, prefixes, tuple(sorted({len(word) for word in prefixes}, reverse=True))


def _plain(text: str) -> str:
    """Return the text in lower case and without accents."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))


WHOLE, PREFIXES, PREFIX_LENGTHS = _table()


@lru_cache(maxsize=4096)
def _labels_of(word: str) -> tuple[str, ...]:
    if found := WHOLE.get(word):
        return found
    for length in PREFIX_LENGTHS:
        if len(word) >= length and (found := PREFIXES.get(word[:length])):
            return found
    return ()


def labels_before(text: str, start: int) -> tuple[str, ...]:
    """Return the labels of the nearest labelling word before a position; () without one.

    The word is in the same line, or in the line before if this one begins with the number.
    """
    first = max(0, start - LEFT_CHARACTERS)
    while first and first < start and text[first - 1].isalpha():
        first += 1  # not "call" of "syscall"
    *above, left = text[first:start].split("\n")
    if above and not WORD.search(left):
        # A number above has the label of its own line, as in a list of words with their counts.
        left = "" if any(letter.isdigit() for letter in above[-1]) else above[-1] + left
    left = PLACEHOLDER.sub(" ", left)  # the word PHONE in it is no label
    if any(sign in left for sign in SIGNS):
        return (PHONE,)
    words = WORD.findall(_plain(left))
    for index in range(len(words) - 1, max(-1, len(words) - 1 - MAX_WORDS), -1):
        pair = f"{words[index - 1]} {words[index]}" if index else ""
        if found := WHOLE.get(pair) or _labels_of(words[index]):
            return found
    nearest = 0
    unspaced: list[str] = []
    left = "" if left.isascii() else left[-UNSPACED_CHARACTERS:]
    for label, signs in UNSPACED.items() if left else ():
        for sign in signs.split():
            end = left.rfind(sign) + len(sign) if sign in left else 0
            if end > nearest:
                nearest, unspaced = end, []
            if end and end == nearest:
                unspaced.append(label)
    return tuple(unspaced)
