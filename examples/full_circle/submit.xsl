<?xml version="1.0" encoding="UTF-8"?>
<!-- What a customer sends, in the terms of the shop's own system. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml" encoding="UTF-8"/>
  <xsl:template match="/order">
    <submission customer="{@customer}">
      <xsl:for-each select="line">
        <item article="{@article}" quantity="{@quantity}" amount="{@quantity * @price}"/>
      </xsl:for-each>
    </submission>
  </xsl:template>
  <xsl:template match="/*" priority="-1">
    <xsl:message terminate="yes">an order is wanted, not a <xsl:value-of select="name()"/></xsl:message>
  </xsl:template>
</xsl:stylesheet>
