"""`Content-Disposition` for any file name that a client may have stored.

References: RFC 6266 section 4.3 and appendix D; RFC 8187 (ext-value); security.md "Path traversal".
"""

import functools
import unicodedata
from urllib.parse import quote

FALLBACK = "content"
_MAX_LENGTH = 255
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # controls, bidi marks, surrogates
_SEPARATORS = frozenset('/\\:*?"<>|')
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"  # RFC 8187 attr-char besides letters and digits


@functools.lru_cache(maxsize=1024)  # looking at each character takes longer than sending a short file
def attachment(file_name: str | None) -> str:
    """Return the header's value: always a download, never a path, never a second header line.

    `filename` is an ASCII stand-in for old clients, `filename*` the name itself in UTF-8 where they differ.
    """
    name = _clean(file_name or "")
    plain = _ascii(name)
    if plain == name:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"


def _clean(file_name: str) -> str:
    kept = "".join(
        "_" if c in _SEPARATORS else c for c in file_name if unicodedata.category(c) not in _UNSAFE_CATEGORIES
    )
    return kept.strip(" ").lstrip(".")[:_MAX_LENGTH].rstrip(". ") or FALLBACK


def _ascii(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "replace").decode()
    return "".join("_" if c in '"\\%?' or not c.isprintable() else c for c in folded)
