# SPDX-License-Identifier: Apache-2.0
"""Documents, a stylesheet, and the steps around them written straight in lxml: the base of the XML benchmarks.

The base has the hardening of `Transformer`: no entities, no network, no DTD, no huge trees, a DOCTYPE is refused, and a
stylesheet reaches neither files nor network. So a ratio tells what the actors cost, not what safety costs.
"""

from lxml import etree

STYLESHEET = b"""<?xml version="1.0"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml" encoding="UTF-8"/>
  <xsl:key name="discount" match="discount" use="@group"/>
  <xsl:template match="/order">
    <invoice number="{@number}">
      <to><xsl:value-of select="customer/name"/>, <xsl:value-of select="customer/city"/></to>
      <xsl:apply-templates select="line[quantity &gt; 0]"><xsl:sort select="sku"/></xsl:apply-templates>
      <quantity><xsl:value-of select="sum(line/quantity)"/></quantity>
    </invoice>
  </xsl:template>
  <xsl:template match="line">
    <xsl:variable name="discount" select="key('discount', substring-after(sku, '-') mod 3)/@percent"/>
    <xsl:variable name="price" select="price * (100 - sum($discount)) div 100"/>
    <item number="{position()}" sku="{translate(sku, '-', '/')}">
      <xsl:copy-of select="name"/>
      <xsl:choose>
        <xsl:when test="quantity &gt;= 5"><shipping>crate</shipping></xsl:when>
        <xsl:when test="contains(name, 'M1')"><shipping>box</shipping></xsl:when>
        <xsl:otherwise><shipping>letter</shipping></xsl:otherwise>
      </xsl:choose>
      <price><xsl:value-of select="format-number($price, '0.00')"/></price>
      <total><xsl:value-of select="format-number(quantity * $price, '0.00')"/></total>
    </item>
  </xsl:template>
</xsl:stylesheet>
"""

#: Lines of an order of about 2 KiB and of about 200 KiB.
LINES_SMALL, LINES_LARGE = 16, 1_790

PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False)


def order(lines: int) -> bytes:
    """An order with so many lines; each takes about 110 bytes."""
    items = "".join(
        f"<line><sku>A-{number * 7919 % 100_000:05}</sku><name>Bolt, steel, galvanised, M{number % 20}</name>"
        f"<quantity>{number % 9}</quantity><price>{number % 97}.25</price></line>\n"
        for number in range(lines)
    )
    head = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<order number="4711">'
        "<customer><name>Widget Works</name><city>Springfield</city></customer>"
        '<discount group="0" percent="5"/><discount group="2" percent="12"/>\n'
    )
    return f"{head}{items}</order>\n".encode()


def stylesheet() -> etree.XSLT:
    """The stylesheet, compiled."""
    return etree.XSLT(etree.XML(STYLESHEET), access_control=etree.XSLTAccessControl.DENY_ALL)


def transform(compiled: etree.XSLT, document: bytes) -> bytes:
    """Parse, transform, serialise.

    Raises:
        ValueError: the document has a DOCTYPE, or is no XML.
    """
    root = etree.fromstring(document, PARSER)
    if root.getroottree().docinfo.doctype:
        raise ValueError("a document with a DOCTYPE is refused")
    return bytes(compiled(root))  # type: ignore[call-overload,no-any-return]  # lxml's stubs do not know its __bytes__
