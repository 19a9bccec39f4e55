"""Access rights: see, hear, speak, control, link, admin. Pure: time and randomness are passed in."""
