"""National ids and secrets: one valid number of each scheme, a wrong check digit, and context where it is needed."""

from __future__ import annotations

import pytest
from test_pii import run, scrub

from stages.kernels.pii_shapes import SCHEMES

# Made-up or published sample numbers with right check digits; those after a word need it.
IDS = {
    "us_ssn": ["536-32-3065", "912-70-1234", "SSN: 536323065"],
    "us_npi": ["NPI 1234567893"],
    "ca_sin": ["Social Insurance Number 123 456 782"],
    "br_cpf": ["111.444.777-35", "CPF 11144477735"],
    "br_cnpj": ["11.222.333/0001-81", "CNPJ 11222333000181"],
    "cl_rut": ["12.345.678-5", "RUT 12345678-5"],
    "mx_curp": ["BOXW310820HNERXN09"],
    "es_dni": ["54362315-K", "DNI 54362315K"],
    "es_nie": ["X2482300W", "X-2482300-W"],
    "it_cf": ["RCCMNL83S18D969H"],
    "nl_bsn": ["BSN 111222333"],
    "be_nrn": ["85.07.30-033.28", "Rijksregisternummer 85073003328"],
    "fr_nir": ["2 95 10 99 126 111 93", "NIR 295109912611193"],
    "de_idnr": ["IdNr. 36574261809"],
    "ch_ahv": ["756.9217.0769.85"],
    "pl_pesel": ["PESEL 44051401359"],
    "cz_rc": ["710319/2745"],
    "se_pnr": ["880320-0016", "19880320-0016", "personnummer 8803200016"],
    "fi_hetu": ["131052-308T"],
    "no_fnr": ["fødselsnummer 15108695088"],
    "ro_cnp": ["CNP 1630615123457"],
    "bg_egn": ["ЕГН 7523169263", "EGN 7523169263"],
    "pt_nif": ["NIF 501964843"],
    "tr_tckn": ["TC Kimlik No 17291716060"],
    "in_aadhaar": ["Aadhaar 2341 2341 2346"],
    "cn_rid": ["360426199101010071", "11010519491231002X"],
    "kr_rrn": ["971013-9019902"],
    "sg_nric": ["S1234567D"],
    "gb_nhs": ["NHS number 943 476 5870"],
    "za_id": ["identity number 7503305044089"],
}


def rules(text: str, **params) -> list[str]:
    return [span["rule"] for span in run([text], **params)["spans"][0].as_py()]


@pytest.mark.parametrize("scheme", IDS)
def test_scheme(scheme):
    for text in IDS[scheme]:
        assert scheme in rules(f"The id is: {text}, he said.", types=("national_id",)), text
        number = text[next(k for k, c in enumerate(text) if c.isdigit()) :]
        if scheme != "us_ssn":  # has no check digit
            digit = next(c for c in number if c.isdigit())
            wrong = text.replace(digit, str((int(digit) + 1) % 10), 1)
            assert scheme not in rules(f"The id is: {wrong}, he said.", types=("national_id",)), wrong


def test_every_scheme_is_tested():
    assert {scheme.name for scheme in SCHEMES} == {*IDS, "card", "named_card"}


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.context and scheme.name in IDS])
def test_a_bare_digit_run_needs_the_name(scheme):
    text = IDS[scheme.name][-1]
    number = text[next(k for k, c in enumerate(text) if c.isdigit()) :]
    if number.replace(" ", "").isdigit():
        assert rules(f"The amount is {number} today.", types=("national_id",)) == []


JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSj\n-----END RSA PRIVATE KEY-----"
BODY = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC2dF4hJ6kL8nM0pR2tV4xZ6"
SECRETS = [
    ("aws_key_id", "AKIA" + "QY7ZP2WD4XK5RT3B"),
    ("github_token", "ghp_" + BODY[:36]),
    ("github_token", "github_pat_" + BODY[:40] + "_" + BODY[:41]),
    ("gitlab_token", "glpat-" + BODY[:20]),
    ("slack_token", "xoxb-" + "123456789012-1234567890123-" + BODY[:24]),
    ("stripe_key", "sk_live_" + BODY[:24]),
    ("google_api_key", "AIza" + BODY[:35]),
    ("openai_key", "sk-" + BODY[:48]),
    ("huggingface_token", "hf_" + BODY[:34]),
    ("npm_token", "npm_" + BODY[:36]),
    ("jwt", JWT),
    ("private_key", PEM),
]


@pytest.mark.parametrize(("rule", "secret"), SECRETS)
def test_secret(rule, secret):
    assert rules(f"set {secret} there") == [rule]
    assert scrub(f"set {secret}\nthere") == "set <SECRET>\nthere"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('api_key = "9f8A7c6B5e4D3f2A1b0C"', 'api_key = "<SECRET>"'),
        ("PASSWORD: FS7CUxsY3xkusv7EkbT9yae", "PASSWORD: <SECRET>"),
        ('{"clientSecret":"Zx81kQ02mmB7vP55tL0a"}', '{"clientSecret":"<SECRET>"}'),
        ("password = get_password_from_env1()", None),
        ("primary_key = 9f8A7c6B5e4D3f2A1b0C", None),
        ("PublicKeyToken=b77a5c561934e0899f8A", None),
        ("password: aaaaaaaaaaaaaaaaaaaaaaa111", None),
        ("sk_live_xxxxxxxxxxxxxxxxxxxxxxxx", None),
        ("AKIAIOSFODNN7EXAMPLE", None),
        ("-----BEGIN PUBLIC KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END PUBLIC KEY-----", None),
    ],
)
def test_assignments_and_examples(text, expected):
    assert scrub(text) == (expected or text)
