"""Content-Disposition (RFC 6266): under which name a browser saves an image, or whether it shows it."""

import re
from urllib.parse import quote

from tintype.model.filename import clean_filename

_ATTR_CHAR = "!#$&+-.^_`|~"
"""What RFC 8187, section 3.2.1, leaves unencoded, beside letters and digits."""
# A quoted-string may hold more, but browsers disagree on backslashes and percent signs (appendix D).
_UNSAFE_QUOTED = re.compile(r'[^ -~]|["\\%]')


def content_disposition(filename: str, *, inline: bool = False) -> str:
    """Return the header's value: printable ASCII, whatever the name holds.

    The plain form comes first for clients that know only it, with `_` for what it cannot say; a name
    that is more than ASCII follows in the extended form (RFC 8187), which clients prefer.
    """
    name = clean_filename(filename) or "image"
    kind = "inline" if inline else "attachment"
    plain = _UNSAFE_QUOTED.sub("_", name)
    if plain == name:
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR)}"
