"""File names in headers."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.http import dispositions

_FORM = re.compile(
    r'attachment; filename="([ !#-$&-\[\]-~]+)"(?:; filename\*=UTF-8\'\'([A-Za-z0-9!#$&+.^_`|~%-]+))?'
)


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("my report.pdf", 'attachment; filename="my report.pdf"'),
        (None, 'attachment; filename="content"'),
        ("", 'attachment; filename="content"'),
        ("...", 'attachment; filename="content"'),
        ("../../etc/passwd", 'attachment; filename="_.._etc_passwd"'),
        ("..\\..\\x", 'attachment; filename="_.._x"'),
        ("a\r\nSet-Cookie: x=1", 'attachment; filename="aSet-Cookie_ x=1"'),
        ('a".exe', 'attachment; filename="a_.exe"'),
        ("50%.txt", "attachment; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt"),
        ("naïve.txt", "attachment; filename=\"nai_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
        ("\u20ac rates.txt", "attachment; filename=\"_ rates.txt\"; filename*=UTF-8''%E2%82%AC%20rates.txt"),
        ("photo\u202egpj.exe", 'attachment; filename="photogpj.exe"'),
        ("a\x00b\x7fc", 'attachment; filename="abc"'),
        ("\ud800x", 'attachment; filename="x"'),
        ("trailing. ", 'attachment; filename="trailing"'),
    ],
)
def test_known_names(file_name: str | None, expected: str) -> None:
    assert dispositions.attachment(file_name) == expected


@given(st.text(max_size=300))
def test_any_name_gives_one_safe_line(file_name: str) -> None:
    value = dispositions.attachment(file_name)
    match = _FORM.fullmatch(value)
    assert match is not None, value
    assert value.isascii()
    name = unquote(match[2]) if match[2] else match[1]
    assert not set(name) & set('/\\:*?"<>|\r\n\0')
    assert not name.startswith(".")
    assert 0 < len(name) <= 255
