<?xml version="1.0" encoding="UTF-8"?>
<!-- What the shop's system answers, in the terms of the customer. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml" encoding="UTF-8" indent="yes"/>
  <xsl:template match="/receipt">
    <acknowledgement>
      <customer><xsl:value-of select="@customer"/></customer>
      <lines><xsl:value-of select="@items"/></lines>
      <total currency="EUR"><xsl:value-of select="format-number(@total, '0.00')"/></total>
    </acknowledgement>
  </xsl:template>
</xsl:stylesheet>
