"""From an image with people to an image with nobody, and a ledger of what was done."""
