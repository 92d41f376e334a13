"""What becomes of a login at sign-out, and the words for it."""

from __future__ import annotations

from enum import Enum


class SignOut(Enum):
    """What became of a login at sign-out. The stored tokens are gone in every case."""

    REVOKED = "revoked"
    NOT_OFFERED = "the server offers no revocation"
    NOT_REACHED = "the server could not be told"
    REFUSED = "the server refused to end the grant"
    NOT_SIGNED_IN = "nobody was signed in"


SIGNED_OUT = {
    SignOut.REVOKED: "Signed out. Notion has ended the grant.",
    SignOut.NOT_OFFERED: "Signed out here. The server offers no revocation: end the connection in its settings too.",
    SignOut.NOT_REACHED: "Signed out here, but the server could not be told: end the connection in Notion's settings.",
    SignOut.REFUSED: "Signed out here, but the server refused to end the grant: do that in Notion's settings.",
    SignOut.NOT_SIGNED_IN: "Nobody was signed in.",
}
