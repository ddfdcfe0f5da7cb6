"""What PostgreSQL keeps of a password."""

from __future__ import annotations

import base64

from trove.guestagent.datastores.postgresql import connection


def test_verifier_is_that_of_the_standards_example() -> None:
    # RFC 7677, section 3
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert connection.scram_verifier("pencil", salt=salt, iterations=4096) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
