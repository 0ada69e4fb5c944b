# SPDX-License-Identifier: Apache-2.0
"""Which references count as undeclared: exactly those over which libxslt stumbles when it gets there."""

import pytest
from lxml import etree

from compysition.xslt_scope import undeclared_variables

HEAD = (
    '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" xmlns:a="urn:one" '
    'xmlns:b="urn:one" xmlns:c="urn:two" xmlns:func="http://exslt.org/functions" extension-element-prefixes="func">'
)


def sheet(body: str, top: str = "") -> "etree._Element":
    return etree.fromstring(f'{HEAD}{top}<xsl:template match="/"><r>{body}</r></xsl:template></xsl:stylesheet>')


def found(body: str, top: str = "") -> list[str]:
    return [name for _, name in undeclared_variables(sheet(body, top))]


def stumbles(body: str, top: str = "") -> bool:
    """Whether libxslt itself does; every place in these stylesheets is one that each document gets to."""
    try:
        etree.XSLT(sheet(body, top))(etree.fromstring("<x><y/></x>"))
    except etree.XSLTApplyError as error:
        return any("has not been declared" in entry.message for entry in error.error_log)
    return False


VARIABLE = '<xsl:variable name="v" select="1"/>'
VALUE = '<xsl:value-of select="$v"/>'
NESTED = f'<xsl:if test="true()">{VARIABLE}</xsl:if>{VALUE}'
TEMPLATE = f'<xsl:template name="t">{VALUE}</xsl:template>'
EMPTY = '<xsl:template name="t"/>'
WITH_PARAM = f'<xsl:template name="t"><xsl:param name="v"/>{VALUE}</xsl:template>'
FUNCTION = '<func:function name="c:f"><xsl:param name="v"/><func:result select="$v"/></func:function>'


@pytest.mark.parametrize(
    ("body", "top"),
    [
        (VALUE, ""),
        (f"{VALUE}{VARIABLE}", ""),
        (NESTED, ""),
        ('<xsl:variable name="v" select="$v"/>', ""),
        ('<xsl:variable name="v"><xsl:value-of select="$v"/></xsl:variable>', ""),
        (f'{VARIABLE}<xsl:call-template name="t"/>', TEMPLATE),
        ('<xsl:call-template name="t"><xsl:with-param name="v" select="1"/></xsl:call-template>', TEMPLATE),
        ('<xsl:call-template name="t"><xsl:with-param name="p" select="$v"/></xsl:call-template>', EMPTY),
        ('<xsl:if test="$v">x</xsl:if>', ""),
        ('<xsl:for-each select="$v"/>', ""),
        ('<xsl:copy-of select="string($v)"/>', ""),
        ('<xsl:number value="$v"/>', ""),
        ('<p q="a{$v}b"/>', ""),
        ("<p q=\"{{{concat('}', $v)}\"/>", ""),
        ('<xsl:element name="{$v}"/>', ""),
        ("", '<xsl:variable name="g" select="$v"/>'),
        ('<xsl:variable name="c:v" select="1"/><xsl:value-of select="$a:v"/>', ""),
    ],
)
def test_a_variable_that_is_not_in_scope_is_found_and_libxslt_stumbles_over_it(body: str, top: str) -> None:
    assert len(found(body, top)) == 1
    assert stumbles(body, top)


@pytest.mark.parametrize(
    ("body", "top"),
    [
        (f"{VARIABLE}{VALUE}", ""),
        (f"{VARIABLE}<p><q>{VALUE}</q></p>", ""),
        (f'{VARIABLE}<xsl:for-each select="x">{VALUE}</xsl:for-each>', ""),
        (VALUE, VARIABLE),
        (VALUE, '<xsl:param name="v"/>'),
        ('<xsl:call-template name="t"/>', WITH_PARAM),
        ("", '<xsl:variable name="a" select="$v"/>' + VARIABLE),
        ('<xsl:variable name="v" select="$v + 1"/>', VARIABLE),
        ("<xsl:value-of select=\"'costs $nix'\"/>", ""),
        ('<p q="{{$nix}}"/>', ""),
        ("<p q=\"{'{$nix}'}\"/>", ""),
        ('<p q="costs $nix"/>', ""),
        ("<xsl:apply-templates/>", "<xsl:template match=\"y[.='{$nix}']\"/>"),
        ("<!-- {$nix} --><?pi {$nix}?>costs $nix", ""),
        ('<xsl:variable name="a:v" select="1"/><xsl:value-of select="$b:v"/>', ""),
        ('<xsl:variable name="Grüße.1-x" select="1"/><xsl:value-of select="$Grüße.1-x - 1"/>', ""),
        ('<xsl:value-of select="c:f(1)"/>', FUNCTION),
    ],
)
def test_a_variable_that_is_in_scope_is_not_found_and_libxslt_runs(body: str, top: str) -> None:
    assert found(body, top) == []
    assert not stumbles(body, top)


def test_the_line_is_told() -> None:
    root = etree.fromstring(
        f'{HEAD}\n<xsl:template match="/">\n<xsl:if\n  test="$one">\n<xsl:value-of select="$two"/></xsl:if>'
        "</xsl:template></xsl:stylesheet>"
    )
    lines = {name: line for line, name in undeclared_variables(root)}
    assert lines["two"] == 5
    assert lines["one"] in (3, 4)  # where libxml2 says that a start tag stands
