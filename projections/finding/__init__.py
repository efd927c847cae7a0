"""From what somebody knows of a phone to the session: the start of its id, its user, or the user's e-mail address."""
