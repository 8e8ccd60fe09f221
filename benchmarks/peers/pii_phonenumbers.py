"""Example telephone numbers of the library `phonenumbers` (metadata of Google's libphonenumber), by format.

Runs in the peers' own Python. Output: `{format: [number, ...]}` with a fixed line and a mobile number of each region.
"""

import json

import phonenumbers as library

FORMATS = {
    "E.164": library.PhoneNumberFormat.E164,
    "international": library.PhoneNumberFormat.INTERNATIONAL,
    "national": library.PhoneNumberFormat.NATIONAL,
}
kinds = (library.PhoneNumberType.FIXED_LINE, library.PhoneNumberType.MOBILE)
examples = [
    library.example_number_for_type(region, kind) for region in sorted(library.SUPPORTED_REGIONS) for kind in kinds
]
print(json.dumps({name: [library.format_number(number, form) for number in examples if number is not None]
                  for name, form in FORMATS.items()}))  # fmt: skip
