"""Say inside an image file that a part of it was generated: IPTC's digital source type, as XMP.

Regulators ask for a mark that machines can read (EU AI Act, Article 50(2); China's GB 45438-2025). What was only
blurred or filled is not generated, and gets none.
"""

from collections.abc import Iterable

from anony_pipeline.anonymize.ledger import LedgerRow

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a photograph of which a trained model made a part, as by inpainting."""

PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def packet(rows: Iterable[LedgerRow]) -> bytes | None:
    """The XMP packet of an image with these regions; None if nothing in it was generated."""
    return PACKET if any(row.method == "generated" for row in rows) else None
